//! People: made, changed, renamed, and what goes with them when they leave.

use super::super::kit::{Person, Site, noise};
use super::{download, image, reference, upload, uploaded};
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_made_shown_and_changed() {
    for site in Site::each().await {
        let body = json!({ "Username": "Eva", "Name": "Eva X", "Email": "eva@x.y", "Role": "Moderator", "Extra": 1 });
        let made = site.post(&site.admin, "/user", &body).await.plain(200);
        assert_eq!(made.text(), "Successfully created user\n");
        let wanted = json!({ "Username": "eva", "Name": "Eva X", "Email": "eva@x.y", "Role": "moderator" });
        // The name matches in any case, as it was made.
        for path in ["/user/eva", "/user/EVA"] {
            assert_eq!(site.get(&site.admin, path).await.plain(200).json(), wanted);
        }
        let token = site.token_of("eva").await;
        assert_eq!(site.get(&token, "/user/me").await.plain(200).json(), wanted);
        let put = |token: String, body: serde_json::Value| {
            let call = site.call("PUT", "/user/eva").token(&token).json(&body);
            async move { call.send().await }
        };
        // Nobody promotes themselves, and sending back what one is changes nothing.
        put(token.clone(), json!({ "Role": "admin" })).await.plain(403);
        assert_eq!(put(token.clone(), wanted.clone()).await.plain(200).json(), wanted);
        let got = put(token.clone(), json!({ "name": "Eva Y", "email": "" })).await.plain(200).json();
        assert_eq!(got, json!({ "Username": "eva", "Name": "Eva Y", "Email": "eva@x.y", "Role": "moderator" }));
        assert_eq!(put(site.admin.clone(), json!({ "Role": "user" })).await.plain(200).json()["Role"], "user");
    }
}

/// A moderator looks after plain users, and not after their equals and betters: a deliberate limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moderator_manages_plain_users_only() {
    let site = Site::start().await;
    let (moderator, equal) = (site.person("moderator").await, site.person("moderator").await);
    for name in ["admin", equal.name.as_str()] {
        for (method, body) in [("PUT", r#"{"Name":"x"}"#), ("DELETE", "")] {
            let call = site.call(method, &format!("/user/{name}")).token(&moderator.token).body(body);
            call.send().await.plain(403);
        }
    }
    site.call("DELETE", &format!("/user/{}", moderator.name)).token(&moderator.token).send().await.plain(200);
    site.get(&moderator.token, "/user/me").await.plain(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_leaves_and_their_images_go_into_the_trash() {
    for site in Site::each().await {
        let (owner, reader) = (site.person("user").await, site.person("user").await);
        let disk = image(&site, &owner, json!({ "Name": "disk" })).await;
        let bytes = noise(21, 100_000);
        uploaded(upload(&site, &owner, &disk, None, &bytes).await);
        let path = format!("/user/{}", owner.name);
        // A pinned image keeps its owner too: all or nothing.
        let name = reference(&site, &disk).await;
        let protect = |on: bool| {
            site.call("PATCH", &format!("images/{name}")).token(&site.admin).json(&json!({ "protected": on })).send()
        };
        protect(true).await.is(200);
        let said = site.call("DELETE", &path).token(&site.admin).send().await.plain(409).text();
        assert!(said.contains("it is protected"), "{said}");
        site.get(&owner.token, "/user/me").await.plain(200);
        protect(false).await.is(200);
        assert_eq!(
            site.call("DELETE", &path).token(&owner.token).send().await.plain(200).text(),
            "Successfully deleted user\n"
        );
        site.get(&owner.token, "/user/me").await.plain(401);
        site.get(&site.admin, &path).await.plain(404);
        site.get(&site.admin, &format!("{path}/images")).await.plain(404);
        site.get(&site.admin, &format!("/image/{disk}")).await.plain(404);
        let users = site.get(&site.admin, "/users").await.plain(200).text();
        assert!(!users.contains(&owner.name) && !users.contains("gone-"), "{users}");
        // The name is free again, and whoever gets it gets nothing else.
        let again = json!({ "Username": owner.name, "Name": "N", "Email": "n@x.y", "Role": "user" });
        site.post(&site.admin, "/user", &again).await.plain(200);
        let token = site.token_of(&owner.name).await;
        let newcomer = Person { name: owner.name.clone(), token };
        assert_eq!(site.get(&newcomer.token, "/user/me/images").await.plain(200).text(), "[]\n");
        site.get(&newcomer.token, &format!("/image/{disk}")).await.plain(404);
        // An admin takes the image out of the trash and hands it over.
        let trash = site.get(&site.admin, "images?trash=true").await.is(200).json();
        let found = trash["items"].as_array().unwrap().iter().find(|image| image["id"] == *disk).cloned().unwrap();
        let name = found["ref"].as_str().unwrap();
        assert!(name.starts_with("gone-"), "{name}");
        site.call("POST", &format!("images/{name}/restore")).token(&site.admin).send().await.is(200);
        let give = json!({ "Username": reader.name });
        site.call("PUT", &format!("/image/{disk}")).token(&site.admin).json(&give).send().await.plain(200);
        assert!(download(&site, &reader, &disk, "1").await == bytes);
        let journal = site.get(&site.admin, "journal?limit=1000").await.is(200).json();
        let verbs: Vec<&str> =
            journal["items"].as_array().unwrap().iter().map(|line| line["verb"].as_str().unwrap()).collect();
        for verb in ["image_trash", "user_delete", "image_restore", "image_give", "image_given"] {
            assert!(verbs.contains(&verb), "{verb} is not in the journal");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_leaves_and_hands_their_images_over() {
    for site in Site::each().await {
        let (owner, heir) = (site.person("user").await, site.person("user").await);
        let disk = image(&site, &owner, json!({ "Name": "disk" })).await;
        let bytes = noise(22, 100_000);
        uploaded(upload(&site, &owner, &disk, None, &bytes).await);
        let path = format!("/user/{}?to={}", owner.name, heir.name.to_uppercase());
        site.call("DELETE", &path).token(&site.admin).send().await.plain(200);
        for round in 0.. {
            if site.get(&heir.token, &format!("/image/{disk}")).await.status == 200 {
                break;
            }
            assert!(round < 500, "the image never came");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(download(&site, &heir, &disk, "1").await == bytes);
        assert_eq!(reference(&site, &disk).await, format!("{}/disk", heir.name));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_name_carries_every_reference() {
    for site in Site::each().await {
        let (owner, other) = (site.person("user").await, site.person("user").await);
        let boot = image(&site, &owner, json!({ "Name": "boot" })).await;
        let disk = image(&site, &owner, json!({ "Name": "disk", "Associated": [boot] })).await;
        let scope = format!("image:read:{}/disk", owner.name);
        let narrow = site.post(&owner.token, "tokens", &json!({ "name": "n", "scopes": [scope] })).await.is(201).json();
        let narrow = narrow["secret"].as_str().unwrap();
        let (old, new) = (format!("/user/{}", owner.name), site.fresh("renamed"));
        let rename =
            |token: String, to: &str| site.call("PUT", &old).token(&token).json(&json!({ "Username": to })).send();
        rename(owner.token.clone(), &other.name).await.plain(409);
        rename(owner.token.clone(), "gone-x").await.plain(400);
        rename(other.token.clone(), "x").await.plain(404);
        assert_eq!(rename(owner.token.clone(), &new).await.plain(200).json()["Username"], *new);
        site.get(&site.admin, &old).await.plain(404);
        // Tokens, images and what images say of each other go on working.
        assert_eq!(site.get(&owner.token, "/user/me").await.plain(200).json()["Username"], *new);
        let shown = site.get(narrow, &format!("/image/{disk}")).await.plain(200).json();
        assert_eq!((&shown["Username"], &shown["Associated"]), (&json!(new), &json!([boot])));
        site.get(narrow, &format!("/image/{boot}")).await.plain(403);
        // A token of old does not reach for whoever gets the old name.
        let again = json!({ "Username": owner.name, "Name": "N", "Email": "n@x.y", "Role": "user" });
        site.post(&site.admin, "/user", &again).await.plain(200);
        let scopes = site.get(narrow, "me").await.is(200).json()["scopes"].to_string();
        assert!(scopes.contains(&format!("{new}/disk")), "{scopes}");
    }
}
