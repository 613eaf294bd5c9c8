//! `X-BAAS-NewVersion: false`: another content under the same number, by compare and swap; what is pinned stays.

use super::super::kit::{Site, noise};
use super::{download, image, numbers, reference, shown, upload, uploaded};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn true_and_absent_make_a_version_and_false_replaces_the_newest() {
    for site in Site::each().await {
        let owner = site.person("user").await;
        let disk = image(&site, &owner, json!({})).await;
        let (a, b, c) = (noise(1, 100_000), noise(2, 60_000), noise(3, 150_000));
        assert_eq!(uploaded(upload(&site, &owner, &disk, None, &a).await), 1);
        assert_eq!(
            uploaded(upload(&site, &owner, &disk, Some("true"), &a).await),
            2,
            "each upload makes one, also of equal bytes"
        );
        assert_eq!(uploaded(upload(&site, &owner, &disk, Some("false"), &b).await), 2);
        assert!(download(&site, &owner, &disk, "1").await == a);
        // Shorter than what was there: nothing of it shines through.
        assert!(download(&site, &owner, &disk, "2").await == b);
        assert_eq!(
            uploaded(upload(&site, &owner, &disk, Some("false"), &b).await),
            2,
            "the same bytes again change nothing"
        );
        assert_eq!(numbers(&shown(&site, &owner, &disk).await), [0, 1, 2]);
        // A number that was used is not used again.
        let name = reference(&site, &disk).await;
        site.call("DELETE", &format!("images/{name}/versions/2")).token(&owner.token).send().await.is(204);
        assert_eq!(uploaded(upload(&site, &owner, &disk, None, &c).await), 3);
        assert!(download(&site, &owner, &disk, "latest").await == c);
        site.get(&owner.token, &format!("/image/{disk}/2")).await.plain(404);
        // The field of the documentation counts as the header.
        let call = site.call("POST", &format!("/image/{disk}")).token(&owner.token);
        let got = call.form(&[("newVersion", None, b"false"), ("any-name", Some("x"), &a)]).send().await;
        assert_eq!(uploaded(got), 3);
        assert!(download(&site, &owner, &disk, "3").await == a);
        // Whatever the first part is called, it is the image; what follows is not.
        let call = site.call("POST", &format!("/image/{disk}")).token(&owner.token);
        let got = call.form(&[("x", None, &b), ("file", Some("y"), &c), ("newVersion", None, b"true")]).send().await;
        assert_eq!(uploaded(got), 4);
        assert!(download(&site, &owner, &disk, "4").await == b);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_without_versions_has_one_whose_content_is_replaced() {
    for site in Site::each().await {
        let owner = site.person("user").await;
        let disk = image(&site, &owner, json!({ "Versioned": false })).await;
        for (seed, new) in [(1, None), (2, Some("true")), (3, Some("false"))] {
            let bytes = noise(seed, 70_000);
            assert_eq!(uploaded(upload(&site, &owner, &disk, new, &bytes).await), 0);
            assert!(download(&site, &owner, &disk, "0").await == bytes);
            assert_eq!(numbers(&shown(&site, &owner, &disk).await), [0]);
        }
        // The native API does the same on such an image, and keeps making versions on others.
        let name = reference(&site, &disk).await;
        let got = site.put(&owner.token, &format!("images/{name}/content"), noise(4, 9000)).await.is(201).json();
        assert_eq!((&got["version"]["number"], &got["outcome"]), (&json!(0), &json!("created")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pinned_keeps_its_content() {
    for site in Site::each().await {
        let owner = site.person("user").await;
        let disk = image(&site, &owner, json!({})).await;
        let name = reference(&site, &disk).await;
        let (before, after) = (noise(5, 9000), noise(6, 9000));
        uploaded(upload(&site, &owner, &disk, None, &before).await);
        let version = format!("images/{name}/versions/1");
        let channel = format!("images/{name}/channels/stable");
        let on = json!({ "protected": true });
        let off = json!({ "protected": false });
        for (pin, release, why) in [
            (("PATCH", version.clone(), on.clone()), ("PATCH", version.clone(), off.clone()), "it is protected"),
            (("PATCH", format!("images/{name}"), on), ("PATCH", format!("images/{name}"), off), "is protected"),
            (
                ("PUT", channel.clone(), json!({ "version": 1 })),
                ("DELETE", channel, Value::Null),
                "channel 'stable' names it",
            ),
        ] {
            let pinning = site.call(pin.0, &pin.1).token(&owner.token).json(&pin.2).send().await;
            pinning.is(200);
            let said = upload(&site, &owner, &disk, Some("false"), &after).await.plain(409).text();
            assert!(said.contains("cannot be replaced") && said.contains(why), "{said}");
            assert!(site.call(release.0, &release.1).token(&owner.token).json(&release.2).send().await.status < 300);
        }
        // An upload that builds on it has a lease.
        let open = json!({ "image": name, "format": "chunks" });
        let open = site.post(&owner.token, "uploads", &open).await.is(201).json();
        let said = upload(&site, &owner, &disk, Some("false"), &after).await.plain(409).text();
        assert!(said.contains("builds on it"), "{said}");
        let id = open["id"].as_str().unwrap();
        site.call("DELETE", &format!("uploads/{id}")).token(&owner.token).send().await.is(204);
        assert!(download(&site, &owner, &disk, "1").await == before);
        assert_eq!(uploaded(upload(&site, &owner, &disk, Some("false"), &after).await), 1);
    }
}

/// Two who replace at once: one wins, and the other hears that it was not what it had seen any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replacements_one_wins() {
    for site in Site::each().await {
        let owner = site.person("user").await;
        let disk = image(&site, &owner, json!({})).await;
        uploaded(upload(&site, &owner, &disk, None, &noise(1, 9000)).await);
        let contents: Vec<Vec<u8>> = (0..6).map(|seed| noise(50 + seed, 400_000)).collect();
        let tries = contents.iter().map(|bytes| upload(&site, &owner, &disk, Some("false"), bytes));
        let got = futures_util::future::join_all(tries).await;
        let won: Vec<usize> = (0..6).filter(|n| got[*n].status == 200).collect();
        assert!(!won.is_empty());
        for lost in got.iter().filter(|got| got.status != 200) {
            assert_eq!(lost.status, 409, "{}", lost.text());
            assert!(lost.text().contains("meanwhile"), "{}", lost.text());
        }
        let kept = download(&site, &owner, &disk, "1").await;
        assert!(won.iter().any(|n| contents[*n] == kept), "what is there is what one of the winners sent, whole");
        assert_eq!(numbers(&shown(&site, &owner, &disk).await), [0, 1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_content_waits_in_the_trash() {
    for site in Site::each().await {
        let owner = site.person("user").await;
        let disk = image(&site, &owner, json!({ "Versioned": false })).await;
        let (old, new) = (noise(8, 80_000), noise(9, 80_000));
        uploaded(upload(&site, &owner, &disk, None, &old).await);
        uploaded(upload(&site, &owner, &disk, None, &new).await);
        let name = reference(&site, &disk).await;
        let journal = site.get(&site.admin, "journal?limit=1000").await.is(200).json();
        let lines = journal["items"].as_array().unwrap().clone();
        let line = lines.iter().rfind(|line| line["verb"] == "content_replace").cloned().unwrap();
        assert_eq!(line["object"], format!("{name}:0"));
        let content = line["detail"]["replaced"].as_str().unwrap();
        let restore = format!("images/{name}/versions/0/restore?content={content}");
        let other = site.person("user").await;
        site.call("POST", &restore).token(&other.token).send().await.is(404);
        let got = site.call("POST", &restore).token(&owner.token).send().await.is(200).json();
        assert_eq!(got["content"], content);
        assert!(download(&site, &owner, &disk, "0").await == old);
        assert_eq!(shown(&site, &owner, &disk).await["Checksum"].as_str().unwrap().len(), 8);
        site.call("POST", &restore).token(&owner.token).send().await.is(404);
        let previous = format!("images/{name}/versions/0/restore?content=previous");
        site.call("POST", &previous).token(&owner.token).send().await.is(200);
        assert!(download(&site, &owner, &disk, "0").await == new);
        let wrong = format!("images/{name}/versions/0/restore?content=x");
        site.call("POST", &wrong).token(&owner.token).send().await.is(400);
    }
}
