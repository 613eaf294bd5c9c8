//! The contract's table of rows and roles, written down by hand: what the generated matrix of all routes shows is held against it here.

use super::super::kit::{Person, Site, noise};
use super::{image, reference};
use serde_json::{Value, json};
use std::time::Instant;

/// What a row is tried on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum On {
    /// A user's own image, private.
    Plain,
    /// The same of type system.
    System,
    /// The same, open to everyone.
    Shared,
}

/// Method, path, body, on what; then nobody, another user, the owner, a moderator, an admin.
type Row = (&'static str, &'static str, &'static str, On, [u16; 5]);

const ACTORS: [&str; 5] = ["nobody", "other", "owner", "moderator", "admin"];
const FORM: &str = "form";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("GET", "/users", "", On::Plain, [401, 403, 403, 200, 200]),
    ("POST", "/user", r#"{"Username":"FRESH","Name":"A","Email":"a@b.c","Role":"user"}"#, On::Plain, [401, 403, 403, 403, 200]),
    ("GET", "/user/me", "", On::Plain, [401, 200, 200, 200, 200]),
    ("GET", "/user/{name}", "", On::Plain, [401, 404, 200, 200, 200]),
    ("PUT", "/user/{name}", r#"{"Name":"Another"}"#, On::Plain, [401, 404, 200, 200, 200]),
    ("PUT", "/user/{name}", r#"{"Name":"Another","Role":"user"}"#, On::Plain, [401, 404, 200, 200, 200]),
    ("PUT", "/user/{name}", r#"{"Role":"admin"}"#, On::Plain, [401, 404, 403, 403, 200]),
    ("PUT", "/user/{name}", r#"{"Role":"moderator"}"#, On::Plain, [401, 404, 403, 403, 200]),
    ("DELETE", "/user/{name}", "", On::Plain, [401, 404, 200, 200, 200]),
    ("GET", "/user/{name}/images", "", On::Plain, [401, 404, 200, 200, 200]),
    ("GET", "/user/{name}/images/disk", "", On::Plain, [401, 404, 200, 200, 200]),
    ("POST", "/user/{name}/image", r#"{"Name":"new","Size":1}"#, On::Plain, [401, 403, 201, 403, 201]),
    ("POST", "/user/{name}/image", r#"{"Name":"new","Size":1,"Type":"system"}"#, On::Plain, [401, 403, 403, 201, 201]),
    ("POST", "/image", r#"{"Name":"new","Size":1}"#, On::Plain, [401, 201, 201, 201, 201]),
    ("POST", "/image", r#"{"Name":"new","Size":1,"Username":"OWNER"}"#, On::Plain, [401, 403, 201, 403, 201]),
    ("POST", "/image", r#"{"Name":"new","Size":1,"Type":"System"}"#, On::Plain, [401, 403, 403, 201, 201]),

    ("GET", "/image/{uuid}", "", On::Plain, [401, 404, 200, 200, 200]),
    ("PUT", "/image/{uuid}", r#"{"Name":"other"}"#, On::Plain, [401, 404, 200, 403, 200]),
    ("PUT", "/image/{uuid}", r#"{"Type":"system"}"#, On::Plain, [401, 404, 403, 403, 200]),
    ("PUT", "/image/{uuid}", r#"{"Username":"admin"}"#, On::Plain, [401, 404, 403, 403, 200]),
    ("DELETE", "/image/{uuid}", "", On::Plain, [401, 404, 200, 403, 200]),
    ("POST", "/image/{uuid}", FORM, On::Plain, [401, 404, 200, 403, 200]),
    ("GET", "/image/{uuid}/latest", "", On::Plain, [401, 404, 200, 200, 200]),
    ("POST", "/image/{uuid}/latest", "", On::Plain, [401, 404, 200, 200, 200]),
    ("GET", "/image/{uuid}/0", "", On::Plain, [401, 404, 200, 200, 200]),
    ("HEAD", "/image/{uuid}/0", "", On::Plain, [401, 404, 200, 200, 200]),
    ("POST", "/image/{uuid}/docker", FORM, On::Plain, [401, 404, 501, 403, 501]),

    ("GET", "/image/{uuid}", "", On::System, [401, 404, 200, 200, 200]),
    ("PUT", "/image/{uuid}", r#"{"Name":"other"}"#, On::System, [401, 404, 403, 200, 200]),
    ("PUT", "/image/{uuid}", r#"{"Type":"base"}"#, On::System, [401, 404, 403, 200, 200]),
    ("PUT", "/image/{uuid}", r#"{"Username":"admin"}"#, On::System, [401, 404, 403, 403, 200]),
    ("DELETE", "/image/{uuid}", "", On::System, [401, 404, 403, 200, 200]),
    ("POST", "/image/{uuid}", FORM, On::System, [401, 404, 403, 200, 200]),
    ("GET", "/image/{uuid}/0", "", On::System, [401, 404, 200, 200, 200]),
    ("POST", "/image/{uuid}/docker", FORM, On::System, [401, 404, 403, 501, 501]),

    ("GET", "/image/{uuid}", "", On::Shared, [401, 200, 200, 200, 200]),
    ("GET", "/image/{uuid}/latest", "", On::Shared, [401, 200, 200, 200, 200]),
    ("PUT", "/image/{uuid}", r#"{"Name":"other"}"#, On::Shared, [401, 403, 200, 403, 200]),
    ("DELETE", "/image/{uuid}", "", On::Shared, [401, 403, 200, 403, 200]),
    ("POST", "/image/{uuid}", FORM, On::Shared, [401, 403, 200, 403, 200]),

    ("GET", "/user/login/github", "", On::Plain, [501; 5]),
    ("GET", "/user/login/github/callback", "", On::Plain, [501; 5]),
    ("POST", "/user/{name}/image_setup", r#"{"Name":"s"}"#, On::Plain, [401, 404, 501, 501, 501]),
    ("GET", "/user/{name}/image_setup", "", On::Plain, [401, 404, 501, 501, 501]),
    ("GET", "/user/{name}/image_setups", "", On::Plain, [401, 404, 501, 501, 501]),
    ("GET", "/user/{name}/image_setup/{uuid}", "", On::Plain, [401, 404, 501, 501, 501]),
    ("PUT", "/user/{name}/image_setup/{uuid}", r#"{"Name":"s"}"#, On::Plain, [401, 404, 501, 501, 501]),
    ("DELETE", "/user/{name}/image_setup/{uuid}", "", On::Plain, [401, 404, 501, 501, 501]),
    ("GET", "/user/{name}/image_setup/{uuid}/images", "", On::Plain, [401, 404, 501, 501, 501]),
    ("POST", "/user/{name}/image_setup/{uuid}/images", "{}", On::Plain, [401, 404, 501, 501, 501]),
    ("DELETE", "/user/{name}/image_setup/{uuid}/images", "{}", On::Plain, [401, 404, 501, 501, 501]),
    ("GET", "/user/{name}/image_setup/{uuid}/images/x", "", On::Plain, [401, 404, 501, 501, 501]),
    ("GET", "/machines", "", On::Plain, [401, 501, 501, 501, 501]),
    ("GET", "/machine/{mac}", "", On::Plain, [401, 501, 501, 501, 501]),
    ("POST", "/machine", "{}", On::Plain, [401, 403, 403, 403, 501]),
    ("PUT", "/machine", "{}", On::Plain, [401, 403, 403, 403, 501]),
    ("DELETE", "/machine/{mac}", "", On::Plain, [401, 403, 403, 403, 501]),
    ("GET", "/machine/{mac}/image", "", On::Plain, [401, 403, 403, 501, 501]),
    ("POST", "/machine/{mac}/disk/{uuid}", "x", On::Plain, [401, 403, 403, 501, 501]),
    ("GET", "/machine/{mac}/boot", "", On::Plain, [401, 403, 403, 501, 501]),
    ("POST", "/machine/{mac}/boot", "{}", On::Plain, [401, 501, 501, 501, 501]),
    ("GET", "/v1/boot/{mac}", "", On::Plain, [501; 5]),
    ("POST", "/log", "{}", On::Plain, [401, 501, 501, 501, 501]),
    ("GET", "/static/vmlinuz", "", On::Plain, [501; 5]),
];

struct Cast {
    site: Site,
    other: Person,
    moderator: Person,
}

impl Cast {
    fn token<'a>(&'a self, actor: &str, owner: &'a Person) -> &'a str {
        match actor {
            "nobody" => "",
            "other" => &self.other.token,
            "owner" => &owner.token,
            "moderator" => &self.moderator.token,
            _ => &self.site.admin,
        }
    }

    /// An owner and their image.
    async fn scene(&self, on: On) -> (Person, String) {
        let owner = self.site.person("user").await;
        let uuid = image(&self.site, &owner, json!({ "Name": "disk" })).await;
        let path = format!("/image/{uuid}");
        match on {
            On::Plain => {}
            On::System => {
                let body = json!({ "Type": "system" });
                self.site.call("PUT", &path).token(&self.site.admin).json(&body).send().await.plain(200);
            }
            On::Shared => self.share(&uuid, &owner).await,
        }
        (owner, uuid)
    }

    async fn share(&self, uuid: &str, owner: &Person) {
        let name = reference(&self.site, uuid).await;
        let sharing = format!("images/{name}/sharing");
        self.site.call("PUT", &sharing).token(&owner.token).json(&json!({ "public": true })).send().await.is(202);
        let begun = Instant::now();
        while self.site.get(&self.other.token, &format!("/image/{uuid}")).await.status != 200 {
            assert!(begun.elapsed().as_secs() < 60, "sharing took too long");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    async fn call(&self, row: &Row, token: &str, owner: &Person, uuid: &str, header: Option<(&str, &str)>) -> u16 {
        let (method, path, body, ..) = row;
        let path = path.replace("{name}", &owner.name).replace("{uuid}", uuid).replace("{mac}", "52:54:00:12:34:56");
        let mut call = self.site.call(method, &path).token(token);
        if let Some((name, value)) = header {
            call = call.header(name, value);
        }
        call = match *body {
            "" => call,
            FORM => call.form(&[("file", Some("d.img"), &noise(1, 8192))]),
            body => call.body(body.replace("FRESH", &self.site.fresh("new")).replace("OWNER", &owner.name)),
        };
        let got = call.send().await;
        if got.status >= 400 && *method != "HEAD" {
            assert_eq!(got.header("content-type"), "text/plain; charset=utf-8", "{method} {path}: {}", got.text());
            assert!(got.text().ends_with('\n') && got.text().len() > 1, "{method} {path}: {:?}", got.text());
        }
        got.status
    }
}

async fn each(test: impl AsyncFn(Cast)) {
    for site in Site::each().await {
        let (other, moderator) = (site.person("user").await, site.person("moderator").await);
        test(Cast { site, other, moderator }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_answers_every_role_as_the_contract_says() {
    each(async |cast| {
        for row in ROWS {
            let (method, path, body, on, expected) = row;
            let mut found = [0; 5];
            // A call that only reads leaves the scene as it was.
            let reads = matches!(*method, "GET" | "HEAD");
            let mut scene = cast.scene(*on).await;
            for (actor, status) in ACTORS.iter().zip(&mut found) {
                *status = cast.call(row, cast.token(actor, &scene.0), &scene.0, &scene.1, None).await;
                if !reads && *status < 400 {
                    scene = cast.scene(*on).await;
                }
            }
            assert_eq!(found, *expected, "{method} {path} {body} on {on:?}, as {ACTORS:?}");
        }
    })
    .await;
}

/// BAAS's own agent sends `type: system` and may then do anything. Here it is a header like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_header_type_system_alone_grants_nothing() {
    let site = Site::start().await;
    let (other, moderator) = (site.person("user").await, site.person("moderator").await);
    let cast = Cast { site, other, moderator };
    for on in [On::Plain, On::System] {
        let (owner, uuid) = cast.scene(on).await;
        for row in ROWS.iter().filter(|row| row.3 == on) {
            for (actor, expected) in [("nobody", row.4[0]), ("other", row.4[1])] {
                if expected >= 400 {
                    let header = Some(("type", "system"));
                    let status = cast.call(row, cast.token(actor, &owner), &owner, &uuid, header).await;
                    assert_eq!(status, expected, "{} {} as {actor}", row.0, row.1);
                }
            }
        }
        let kept = cast.site.get(&owner.token, &format!("/image/{uuid}")).await.plain(200).json();
        assert_eq!(super::numbers(&kept), [0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_taken_from_either_header_and_its_scopes_count() {
    let site = Site::start().await;
    let owner = site.person("user").await;
    let uuid = image(&site, &owner, json!({})).await;
    let path = format!("/image/{uuid}");
    site.call("GET", &path).header("x-auth-token", &owner.token).send().await.plain(200);
    site.call("GET", &path).header("x-auth-token", "slp_wrong").send().await.plain(401);
    let narrow = |scope: String| {
        let site = &site;
        let token = &owner.token;
        async move {
            let made = site.post(token, "tokens", &json!({ "name": "narrow", "scopes": [scope] })).await.is(201);
            made.json()["secret"].as_str().unwrap().to_owned()
        }
    };
    let reads = narrow("image:read".to_owned()).await;
    site.get(&reads, &path).await.plain(200);
    site.call("DELETE", &path).token(&reads).send().await.plain(403);
    site.post(&reads, "/image", &json!({ "Name": "x", "Size": 1 })).await.plain(403);
    site.call("DELETE", &format!("/user/{}", owner.name)).token(&reads).send().await.plain(403);
    let elsewhere = narrow(format!("image:read:{}/nothing", owner.name)).await;
    site.get(&elsewhere, &path).await.plain(403);
    let listed: Value = site.get(&elsewhere, &format!("/user/{}/images", owner.name)).await.plain(200).json();
    assert_eq!(listed, json!([]));
    // Who does not see an image learns nothing of its name by a token without scopes.
    let other = site.person("user").await;
    let made = site.post(&other.token, "tokens", &json!({ "name": "n", "scopes": ["people"] })).await.is(201).json();
    let text = site.get(made["secret"].as_str().unwrap(), &path).await.plain(404).text();
    assert!(!text.contains(&owner.name) && text.contains(&uuid), "{text}");
}
