//! Nobody reads a byte of a private image that is not his, not even through what a shared image has in common with it.

use super::kit::{Person, Site, noise};
use super::uploads::{begin, cut};
use serde_json::{Value, json};
use slipway_api::wire::{bits_decode, ids_encode};
use slipway_chunk::Layout;

async fn share(site: &Site, owner: &Person, image: &str, change: &Value) {
    let got = site.call("PUT", &format!("images/{image}/sharing")).token(&owner.token).json(change).send().await;
    assert!(matches!(got.status, 200 | 202), "{}", got.text());
    for n in 0.. {
        let shown = site.get(&owner.token, &format!("images/{image}")).await.is(200).json();
        if shown["sharing"]["task"].is_null() {
            return;
        }
        assert!(n < 100, "sharing does not end: {shown}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

async fn layout(site: &Site, person: &Person, image: &str, version: u64) -> Layout {
    let got = site.get(&person.token, &format!("images/{image}/versions/{version}/layouts/0")).await.is(200);
    Layout::decode(&got.body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_gets_the_shared_image_and_nothing_else() {
    for site in Site::each().await {
        reader_check(&site).await;
    }
}

async fn reader_check(site: &Site) {
    let (owner, reader) = (site.person("user").await, site.person("user").await);
    let (private, shared) = (site.image(&owner).await, site.image(&owner).await);
    // The private image has a secret part and one in common with the shared image; so frames and packs hold both.
    let common = noise(1, 200_000);
    let secret = [common.clone(), noise(2, 400_000)].concat();
    site.version(&owner, &private, secret.clone()).await;
    site.version(&owner, &shared, common.clone()).await;
    let secret_layout = layout(site, &owner, &private, 0).await;
    for part in [
        "versions/0/content",
        "versions/0/manifest",
        "versions/0/layouts/0",
        "versions/0/segments/0",
        "versions/0",
        "versions",
        "",
    ] {
        for image in [&private, &shared] {
            site.get(&reader.token, format!("images/{image}/{part}").trim_end_matches('/')).await.is(404);
        }
    }
    share(site, &owner, &shared, &json!({ "add": [reader.name] })).await;
    let got = site.get(&reader.token, &format!("images/{shared}/versions/0/content")).await.is(200);
    assert!(got.body == common);
    site.get(&reader.token, &format!("images/{private}/versions/0/content")).await.is(404);

    // Everything that the reader's capabilities reach.
    let readable = layout(site, &reader, &shared, 0).await;
    let secret_packs: Vec<_> = secret_layout.packs.iter().map(|pack| pack.id).collect();
    for pack in &readable.packs {
        assert!(!secret_packs.contains(&pack.id), "the shared image is read out of a pack of the private one");
        let bytes = site.call("GET", &pack.address).send().await.is(200).body;
        let window = &secret[300_000..300_064];
        assert!(
            !bytes.windows(64).any(|part| part == window),
            "a pack of the shared image holds bytes of the private one"
        );
    }
    // A capability for one pack does not open another.
    let (_, right) = readable.packs[0].address.split_once('?').unwrap();
    for pack in &secret_layout.packs {
        let (path, _) = pack.address.split_once('?').unwrap();
        site.call("GET", &format!("{path}?{right}")).send().await.is(403);
        site.get(&reader.token, path).await.is(403);
    }
    // Asking what is missing does not tell what the owner stores, nor does a manifest of his chunks get committed.
    let own = site.image(&reader).await;
    let upload = begin(site, &reader, &own, "chunks").await;
    let stolen = cut(&secret);
    let ids = ids_encode(stolen.chunks.iter().map(|(id, _)| id.as_bytes()));
    let got =
        site.call("POST", &format!("uploads/{upload}/missing")).token(&reader.token).body(ids).send().await.is(200);
    let missing = bits_decode(&got.body, stolen.chunks.len()).unwrap();
    assert!(missing.iter().all(|bit| *bit), "the look-up tells what another account stores");
    let ids = ids_encode(
        stolen.segments.iter().map(|segment| segment.id()).collect::<Vec<_>>().iter().map(|id| id.as_bytes()),
    );
    let path = format!("uploads/{upload}/missing?kind=segments");
    let got = site.call("POST", &path).token(&reader.token).body(ids).send().await.is(200);
    assert_eq!(bits_decode(&got.body, 1), Some(vec![true]));
    let commit =
        site.call("POST", &format!("uploads/{upload}/commit")).token(&reader.token).body(stolen.manifest.encode());
    commit.send().await.is(409);

    // Who is no reader any more reads nothing new.
    share(site, &owner, &shared, &json!({ "remove": [reader.name] })).await;
    site.get(&reader.token, &format!("images/{shared}/versions/0/content")).await.is(404);
    site.get(&reader.token, &format!("images/{shared}/versions/0/layouts/0")).await.is(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_image_is_read_by_all_and_its_owner_s_others_by_none() {
    let site = Site::start().await;
    let (owner, reader) = (site.person("user").await, site.person("user").await);
    let (private, public) = (site.image(&owner).await, site.image(&owner).await);
    site.version(&owner, &private, noise(1, 50_000)).await;
    site.version(&owner, &public, noise(1, 50_000)).await;
    share(&site, &owner, &public, &json!({ "public": true })).await;
    site.get(&reader.token, &format!("images/{public}/versions/0/content")).await.is(200);
    site.get(&reader.token, &format!("images/{private}/versions/0/content")).await.is(404);
    site.get("", &format!("images/{public}/versions/0/content")).await.is(401);
    let listed = site.get(&reader.token, "images").await.is(200).json();
    let names: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|image| image["ref"].as_str().unwrap()).collect();
    assert_eq!(names, [public.as_str()]);
    let put = site.put(&reader.token, &format!("images/{public}/content"), noise(3, 4096)).await;
    assert!(matches!(put.status, 403 | 404), "{}", put.text());
}
