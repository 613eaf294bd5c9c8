//! How the dialect speaks: redirects, methods, spelling, media types.

use super::super::kit::Site;
use super::{image, shown};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_and_methods() {
    let site = Site::start().await;
    let owner = site.person("user").await;
    let uuid = image(&site, &owner, json!({})).await;
    for (method, path, status, more) in [
        ("GET", "/users/", 301, "/users"),
        ("GET", "/user/me/?a=b", 301, "/user/me?a=b"),
        ("POST", "/user/", 301, "/user"),
        ("GET", "/image/x/0//", 301, "/image/x/0"),
        ("DELETE", "/users/", 301, "/users"),
        ("GET", "/user/", 301, "/user"),
        ("GET", "/nowhere/", 404, ""),
        ("GET", "/image/a/b/c", 404, ""),
        ("GET", "/image/a/b/c/", 404, ""),
        ("GET", "/users/x", 404, ""),
        ("GET", "/machine", 405, "POST, PUT"),
        ("GET", "/user", 405, "POST"),
        ("DELETE", "/users", 405, "GET"),
        ("PATCH", "/image/x", 405, "GET, PUT, DELETE, POST"),
        ("PUT", "/image/x/latest", 405, "GET, POST, GET"),
        ("GET", "/image", 405, "POST"),
    ] {
        let got = site.call(method, path).token(&owner.token).send().await;
        assert_eq!(got.status, status, "{method} {path}: {}", got.text());
        match status {
            301 => assert_eq!(got.header("location"), more, "{path}"),
            405 => assert_eq!(got.header("allow"), more, "{path}"),
            _ => {}
        }
        if status >= 400 && path != "/nowhere/" {
            assert_eq!(got.header("content-type"), "text/plain; charset=utf-8", "{path}");
            assert!(got.text().ends_with('\n'));
        }
    }
    // Elsewhere a trailing slash is another path, and errors are documents.
    site.get(&owner.token, "/api/v1/me/").await.is(404);
    site.get(&owner.token, "//evil.example/").await.is(404);
    // The redirect is followed by what follows redirects.
    let got = site.get(&owner.token, &format!("/image/{uuid}/")).await;
    site.get(&owner.token, got.header("location")).await.plain(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_one_line_in_the_right_spelling() {
    let site = Site::start().await;
    let owner = site.person("user").await;
    let uuid = image(&site, &owner, json!({})).await;
    let machine = image(&site, &owner, json!({ "Type": "machine" })).await;
    const IMAGE: &[&str] = &[
        "Name",
        "Versions",
        "UUID",
        "Username",
        "DiskCompressionStrategy",
        "ImageFileType",
        "Type",
        "Checksum",
        "Filesystem",
        "Location",
        "DiskTransferStrategy",
        "Associated",
    ];
    let user = ["Username", "Name", "Email", "Role"];
    for (path, keys) in [
        ("/user/me".to_owned(), user.to_vec()),
        (format!("/user/{}", owner.name), user.to_vec()),
        (format!("/image/{uuid}"), IMAGE.to_vec()),
        (format!("/image/{machine}"), [IMAGE, &["MachineMAC", "Size"]].concat()),
    ] {
        let got = site.get(&owner.token, &path).await.plain(200);
        assert_eq!(got.header("content-type"), "application/json");
        assert_eq!(got.text().matches('\n').count(), 1, "{}", got.text());
        assert!(got.text().ends_with("}\n"));
        let object = got.json();
        let mut found: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
        let mut wanted = keys;
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{path}");
    }
    for path in [format!("/user/{}/images", owner.name), format!("/user/{}/images/nothing", owner.name)] {
        let got = site.get(&owner.token, &path).await.plain(200);
        assert!(got.json().is_array() && got.text().ends_with("]\n"), "{}", got.text());
    }
    assert_eq!(site.get(&owner.token, &format!("/user/{}/images/nothing", owner.name)).await.text(), "[]\n");
    let users = site.get(&site.admin, "/users").await.plain(200).json();
    assert!(users.as_array().unwrap().iter().any(|user| user["Username"] == *owner.name));
    let text = site.call("DELETE", &format!("/image/{uuid}")).token(&owner.token).send().await.plain(200);
    assert_eq!(
        (text.text().as_str(), text.header("content-type")),
        ("Successfully deleted image\n", "text/plain; charset=utf-8")
    );
    assert_eq!(text.header("x-content-type-options"), "nosniff");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_match_in_any_case_and_unknown_ones_are_ignored() {
    let site = Site::start().await;
    let owner = site.person("user").await;
    let body = r#"{"NAME":"Any Case","size":2,"dISKcompressionSTRATEGY":"GZip","imagefiletype":"RAW","TYPE":"Boot",
        "location":"/dev/sda","DISKTRANSFERSTRATEGY":"NBD","Unknown":{"a":[1]},"versioned":false,"Versions":null}"#;
    let made =
        site.call("POST", "/image").token(&owner.token).header("content-type", "application/x-www-form-urlencoded");
    let made = made.body(body).send().await.plain(201).json();
    for (key, value) in [
        ("Name", "Any Case"),
        ("DiskCompressionStrategy", "gzip"),
        ("ImageFileType", "raw"),
        ("Type", "boot"),
        ("Location", "/dev/sda"),
        ("DiskTransferStrategy", "nbd"),
        ("Username", &owner.name),
        ("Filesystem", ""),
    ] {
        assert_eq!(made[key], value, "{key}");
    }
    assert_eq!(made["Versions"].as_array().unwrap().len(), 1);
    let version = &made["Versions"][0];
    assert_eq!((&version["Version"], &version["ImageModelUUID"]), (&json!(0), &made["UUID"]));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(version["CreatedAt"].as_u64().unwrap().abs_diff(now) < 60, "{version}");
    // What was shown can be sent back, and changes nothing.
    let uuid = made["UUID"].as_str().unwrap();
    let again: Value =
        site.call("PUT", &format!("/image/{uuid}")).token(&owner.token).json(&made).send().await.plain(200).json();
    assert_eq!(again, made);
    assert_eq!(shown(&site, &owner, uuid).await, made);
}
