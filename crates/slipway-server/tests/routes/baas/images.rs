//! What a new image is, what is said of it, and who it belongs to.

use super::super::kit::{Site, noise};
use super::{download, image, numbers, reference, shown, upload, uploaded};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_image_is_an_empty_disk_that_costs_nothing() {
    for site in Site::each().await {
        let owner = site.person("user").await;
        for (wish, mib) in [
            (json!({}), 6144u64),
            (json!({ "Size": 3 }), 3),
            (json!({ "Type": "machine" }), 128),
            (json!({ "Type": "machine", "Size": 5 }), 5),
            (json!({ "Filesystem": "raw" }), 6144),
            (json!({ "Filesystem": "" }), 6144),
        ] {
            let mut body = json!({ "Name": "Fedora" });
            body.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
            let made = site.post(&owner.token, "/image", &body).await.plain(201).json();
            assert_eq!(numbers(&made), [0], "{body}");
            let path = format!("/image/{}/0", made["UUID"].as_str().unwrap());
            let head = site.call("HEAD", &path).token(&owner.token).send().await;
            assert_eq!(head.header("content-length"), (mib << 20).to_string(), "{body}");
            let end = site.call("GET", &path).token(&owner.token).header("range", "bytes=-4096").send().await;
            assert_eq!((end.status, end.body), (206, vec![0; 4096]), "{body}");
        }
        let native = site.get(&owner.token, &format!("images?owner={}", owner.name)).await.is(200).json();
        let slugs: Vec<&str> =
            native["items"].as_array().unwrap().iter().map(|i| i["slug"].as_str().unwrap()).collect();
        assert_eq!(slugs, ["fedora", "fedora-2", "fedora-3", "fedora-4", "fedora-5", "fedora-6"]);
        for image in native["items"].as_array().unwrap() {
            assert_eq!((&image["title"], &image["latest"]), (&json!("Fedora"), &json!(0)));
        }
        let named = site.get(&owner.token, "/user/me/images/Fedora").await.plain(200).json();
        assert_eq!(named.as_array().unwrap().len(), 6, "several images may have one name");
        // Nothing of it was stored but what says that there is nothing.
        let versions = site.get(&owner.token, &format!("images/{}/fedora", owner.name)).await.is(200).json();
        let zero = &versions["versions"][0];
        assert_eq!((&zero["data_bytes"], &zero["stored_bytes"], &zero["new_bytes"]), (&json!(0), &json!(0), &json!(0)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_and_its_version_0_come_together_or_not_at_all() {
    let site = Site::start().await;
    let owner = site.person("user").await;
    let posts = (0..8).map(|_| {
        let site = &site;
        let token = owner.token.clone();
        async move { site.post(&token, "/image", &json!({ "Name": "same", "Size": 1 })).await }
    });
    for got in futures_util::future::join_all(posts).await {
        got.plain(201);
    }
    let images = site.get(&owner.token, "/user/me/images").await.plain(200).json();
    assert_eq!(images.as_array().unwrap().len(), 8);
    for image in images.as_array().unwrap() {
        assert_eq!(numbers(image), [0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checksums_tell_contents_apart_where_versions_do_not() {
    for site in Site::each().await {
        let owner = site.person("user").await;
        let versioned = image(&site, &owner, json!({})).await;
        assert_eq!(shown(&site, &owner, &versioned).await["Checksum"], "");
        // 128 MiB of zeros, as BAAS's own machine images begin.
        let machine = image(&site, &owner, json!({ "Type": "machine", "Size": 128 })).await;
        let shown_machine = shown(&site, &owner, &machine).await;
        assert_eq!((&shown_machine["Checksum"], &shown_machine["Size"]), (&json!("80654151"), &json!(128)));
        let single = image(&site, &owner, json!({ "Versioned": false })).await;
        let bytes = noise(7, 300_000);
        assert_eq!(uploaded(upload(&site, &owner, &single, None, &bytes).await), 0);
        let crc = |bytes: &[u8]| format!("{:08x}", crc32(bytes));
        assert_eq!(shown(&site, &owner, &single).await["Checksum"], crc(&bytes));
        // An image that becomes one without versions gets its checksum when it is asked for.
        let later = image(&site, &owner, json!({})).await;
        let path = format!("/image/{later}");
        let changed = site.call("PUT", &path).token(&owner.token).json(&json!({ "Versioned": false })).send().await;
        assert_eq!(changed.plain(200).json()["Checksum"], crc(&vec![0; 1 << 20]));
        // Not while it has several.
        uploaded(upload(&site, &owner, &versioned, None, &bytes).await);
        let path = format!("/image/{versioned}");
        let refused = site.call("PUT", &path).token(&owner.token).json(&json!({ "Versioned": false })).send().await;
        assert!(refused.plain(409).text().contains("has 2 versions"));
    }
}

/// The plain bitwise form (ISO 3309), as an oracle.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_an_image_is_changed_and_its_bytes_are_not() {
    for site in Site::each().await {
        let owner = site.person("user").await;
        let boot = image(&site, &owner, json!({})).await;
        let disk = image(&site, &owner, json!({})).await;
        let path = format!("/image/{disk}");
        let change = json!({
            "Name": "Other", "Filesystem": "EXT4", "Type": "user", "DiskCompressionStrategy": "ZSTD", "ImageFileType": "qcow2",
            "DiskTransferStrategy": "nbd", "Location": "serial:S4EV", "Associated": [boot], "Size": 9999, "Checksum": "x",
        });
        let got = site.call("PUT", &path).token(&owner.token).json(&change).send().await.plain(200).json();
        for (key, value) in [
            ("Name", json!("Other")),
            ("Filesystem", json!("ext4")),
            ("Type", json!("user")),
            ("DiskCompressionStrategy", json!("zstd")),
            ("ImageFileType", json!("qcow2")),
            ("DiskTransferStrategy", json!("nbd")),
            ("Location", json!("serial:S4EV")),
            ("Associated", json!([boot])),
            ("Checksum", json!("")),
        ] {
            assert_eq!(got[key], value, "{key}");
        }
        assert_eq!(numbers(&got), [0]);
        let raw = format!("images/{}/versions/0/content", reference(&site, &disk).await);
        assert!(site.get(&owner.token, &raw).await.is(200).body == vec![0; 1 << 20]);
        // Empty values leave things as they are.
        let empty = json!({ "Name": "", "Filesystem": "", "Type": "", "Location": "" });
        assert_eq!(site.call("PUT", &path).token(&owner.token).json(&empty).send().await.plain(200).json(), got);
        // The native API shows the same.
        let native = site.get(&owner.token, &format!("images/{}", reference(&site, &disk).await)).await.is(200).json();
        assert_eq!(
            (&native["file_type"], &native["transfer"], &native["versioned"]),
            (&json!("qcow2"), &json!("nbd"), &json!(true))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_changes_hands_with_its_bytes() {
    for site in Site::each().await {
        let (owner, heir) = (site.person("user").await, site.person("user").await);
        let disk = image(&site, &owner, json!({ "Name": "disk" })).await;
        let bytes = noise(11, 200_000);
        uploaded(upload(&site, &owner, &disk, None, &bytes).await);
        image(&site, &heir, json!({ "Name": "disk" })).await;
        let give = json!({ "Username": heir.name.to_uppercase(), "Name": "Given" });
        let got =
            site.call("PUT", &format!("/image/{disk}")).token(&site.admin).json(&give).send().await.plain(200).json();
        assert_eq!((&got["Username"], &got["Name"]), (&json!(heir.name), &json!("Given")));
        site.get(&owner.token, &format!("/image/{disk}")).await.plain(404);
        site.get(&owner.token, &format!("/image/{disk}/1")).await.plain(404);
        assert!(download(&site, &heir, &disk, "1").await == bytes);
        assert_eq!(reference(&site, &disk).await, format!("{}/disk-2", heir.name));
        // New chunks go where the new owner alone reads, and the old owner's other images share nothing with them.
        let native = site.get(&heir.token, &format!("images/{}/disk-2/versions/1/manifest", heir.name)).await.is(200);
        assert!(!native.body.is_empty());
        uploaded(upload(&site, &heir, &disk, None, &noise(12, 5000)).await);
        let unknown = json!({ "Username": "unknown" });
        site.call("PUT", &format!("/image/{disk}")).token(&site.admin).json(&unknown).send().await.plain(404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_image_is_gone_and_comes_back_from_the_trash() {
    let site = Site::start().await;
    let owner = site.person("user").await;
    let disk = image(&site, &owner, json!({})).await;
    let name = reference(&site, &disk).await;
    let path = format!("/image/{disk}");
    for (pin, off) in [
        (
            ("PATCH", format!("images/{name}"), json!({ "protected": true })),
            ("PATCH", format!("images/{name}"), json!({ "protected": false })),
        ),
        (
            ("PATCH", format!("images/{name}/versions/0"), json!({ "protected": true })),
            ("PATCH", format!("images/{name}/versions/0"), json!({ "protected": false })),
        ),
        (
            ("PUT", format!("images/{name}/channels/stable"), json!({ "version": 0 })),
            ("DELETE", format!("images/{name}/channels/stable"), Value::Null),
        ),
    ] {
        site.call(pin.0, &pin.1).token(&owner.token).json(&pin.2).send().await.is(200);
        let said = site.call("DELETE", &path).token(&owner.token).send().await.plain(409).text();
        assert!(said.contains("cannot be deleted"), "{said}");
        assert!(site.call(off.0, &off.1).token(&owner.token).json(&off.2).send().await.status < 300);
    }
    site.call("DELETE", &path).token(&owner.token).send().await.plain(200);
    for (method, path) in
        [("GET", path.clone()), ("DELETE", path.clone()), ("GET", format!("{path}/0")), ("PUT", path.clone())]
    {
        site.call(method, &path).token(&owner.token).body("{}").send().await.plain(404);
    }
    upload(&site, &owner, &disk, None, b"x").await.plain(404);
    assert_eq!(site.get(&owner.token, "/user/me/images").await.plain(200).text(), "[]\n");
    site.call("POST", &format!("images/{name}/restore")).token(&owner.token).send().await.is(200);
    assert_eq!(numbers(&shown(&site, &owner, &disk).await), [0]);
}
