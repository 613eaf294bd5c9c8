//! The BAAS dialect, row by row, role by role, error by error.

mod bytes;
mod errors;
mod images;
mod replace;
mod roles;
mod shape;
mod users;

use super::kit::{Got, Person, Site};
use serde_json::{Value, json};

/// An image by its UUID.
async fn image(site: &Site, person: &Person, wish: Value) -> String {
    let mut body = json!({ "Name": site.fresh("disk"), "Size": 1 });
    body.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
    let made = site.post(&person.token, "/image", &body).await.plain(201).json();
    made["UUID"].as_str().unwrap().to_owned()
}

async fn shown(site: &Site, person: &Person, uuid: &str) -> Value {
    site.get(&person.token, &format!("/image/{uuid}")).await.plain(200).json()
}

/// Uploads bytes, with `X-BAAS-NewVersion` if it is given.
async fn upload(site: &Site, person: &Person, uuid: &str, new: Option<&str>, bytes: &[u8]) -> Got {
    let mut call = site.call("POST", &format!("/image/{uuid}")).token(&person.token);
    if let Some(new) = new {
        call = call.header("X-BAAS-NewVersion", new);
    }
    call.form(&[("file", Some("disk.img"), bytes)]).send().await
}

/// Uploads bytes and gives the number that was answered.
#[track_caller]
fn uploaded(got: Got) -> u64 {
    let text = got.plain(200).text();
    let number = text.strip_prefix("Successfully uploaded image: ").and_then(|rest| rest.strip_suffix('\n'));
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text:?}"))
}

async fn download(site: &Site, person: &Person, uuid: &str, version: &str) -> Vec<u8> {
    site.get(&person.token, &format!("/image/{uuid}/{version}")).await.plain(200).body
}

/// `owner/slug` of an image, as the native API knows it.
async fn reference(site: &Site, uuid: &str) -> String {
    let page = site.get(&site.admin, "images?limit=1000").await.is(200).json();
    let found = page["items"].as_array().unwrap().iter().find(|image| image["id"] == uuid).cloned();
    found.unwrap_or_else(|| panic!("{uuid} is not there"))["ref"].as_str().unwrap().to_owned()
}

fn numbers(image: &Value) -> Vec<u64> {
    image["Versions"].as_array().unwrap().iter().map(|version| version["Version"].as_u64().unwrap()).collect()
}
