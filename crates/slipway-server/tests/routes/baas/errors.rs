//! Every error of the rows, one line each.

use super::super::kit::{Site, noise};
use super::image;
use serde_json::json;

/// Method, path, body, status, how the text begins.
type Line = (&'static str, &'static str, &'static str, u16, &'static str);

#[rustfmt::skip]
const USERS: &[Line] = &[
    ("POST", "/user", "", 400, "invalid user given\n"),
    ("POST", "/user", "[]", 400, "invalid user given\n"),
    ("POST", "/user", "{", 400, "invalid user given\n"),
    ("POST", "/user", "{}", 400, "No username given\n"),
    ("POST", "/user", r#"{"Username":""}"#, 400, "No username given\n"),
    ("POST", "/user", r#"{"username":"eva"}"#, 400, "No name given\n"),
    ("POST", "/user", r#"{"username":"eva","name":"Eva"}"#, 400, "No email given\n"),
    ("POST", "/user", r#"{"username":"eva","name":"Eva","email":"e@x.y"}"#, 400, "No role given\n"),
    ("POST", "/user", r#"{"username":"eva","name":"Eva","email":"e@x.y","role":"king"}"#, 400, "Role 'king' is none of user, moderator and admin\n"),
    ("POST", "/user", r#"{"username":"eva","name":"Eva","email":"nowhere","role":"user"}"#, 400, "email is no address"),
    ("POST", "/user", r#"{"username":"e/va","name":"Eva","email":"e@x.y","role":"user"}"#, 400, "Username: account name has the character '/'"),
    ("POST", "/user", r#"{"username":"me","name":"Eva","email":"e@x.y","role":"user"}"#, 400, "Username: account name 'me' is reserved\n"),
    ("POST", "/user", r#"{"username":7}"#, 400, "Username is not text\n"),
    ("POST", "/user", r#"{"username":"ADMIN","name":"Eva","email":"e@x.y","role":"user"}"#, 409, "the name admin is taken\n"),
    ("POST", "/user", r#"{"username":"system","name":"Eva","email":"e@x.y","role":"user"}"#, 409, "the name system is taken\n"),
    ("GET", "/user/unknown", "", 404, "user unknown does not exist or is not yours to see\n"),
    ("PUT", "/user/unknown", "{}", 404, "user unknown does not exist"),
    ("DELETE", "/user/unknown", "", 404, "user unknown does not exist"),
    ("GET", "/user/unknown/images", "", 404, "user unknown does not exist"),
    ("GET", "/user/unknown/images/x", "", 404, "user unknown does not exist"),
    ("POST", "/user/unknown/image", r#"{"Name":"x","Size":1}"#, 404, "user unknown does not exist"),
    ("PUT", "/user/{name}", "7", 400, "invalid user given\n"),
    ("PUT", "/user/{name}", r#"{"Role":"king"}"#, 400, "Role 'king' is none of"),
    ("PUT", "/user/{name}", r#"{"Email":"x"}"#, 400, "email is no address"),
    ("PUT", "/user/{name}", r#"{"Username":"admin"}"#, 409, "the name admin is taken\n"),
    ("PUT", "/user/{name}", r#"{"Username":"a b"}"#, 400, "Username: "),
    ("PUT", "/user/admin", r#"{"Role":"user"}"#, 409, "this is the last admin"),
    ("DELETE", "/user/admin", "", 409, "this is the last admin"),
    ("DELETE", "/user/{name}?to=unknown", "", 404, "user unknown does not exist"),
    ("DELETE", "/user/{name}?to={name}", "", 400, "the images of user"),
    ("DELETE", "/user/system", "", 404, "user system does not exist"),
];

#[rustfmt::skip]
const IMAGES: &[Line] = &[
    ("POST", "/image", "", 400, "couldn't decode image model\n"),
    ("POST", "/image", "[]", 400, "couldn't decode image model\n"),
    ("POST", "/image", "{}", 400, "Name is not allowed to be empty\n"),
    ("POST", "/image", r#"{"Name":""}"#, 400, "Name is not allowed to be empty\n"),
    ("POST", "/user/{name}/image", r#"{"Name":""}"#, 400, "Name is not allowed to be empty\n"),
    ("POST", "/image", r#"{"Name":"x","Versions":[{"Version":3}]}"#, 400, "There shouldn't be a version\n"),
    ("POST", "/image", r#"{"Name":"x","Size":0}"#, 400, "Size is not a whole number from 1 on\n"),
    ("POST", "/image", r#"{"Name":"x","Size":-1}"#, 400, "Size is not a whole number from 1 on\n"),
    ("POST", "/image", r#"{"Name":"x","Size":1.5}"#, 400, "Size is not a whole number from 1 on\n"),
    ("POST", "/image", r#"{"Name":"x","Size":"6144"}"#, 400, "Size is not a whole number from 1 on\n"),
    ("POST", "/image", r#"{"Name":"x","Size":99999999999999}"#, 413, "an image of "),
    ("POST", "/image", r#"{"Name":"x","Size":18446744073709551615}"#, 413, "an image of "),
    ("POST", "/image", r#"{"Name":"x","Type":"moon"}"#, 400, "Type 'moon' is none of base, boot, system, user, temporal, init and machine\n"),
    ("POST", "/image", r#"{"Name":"x","ImageFileType":"vmdk"}"#, 400, "ImageFileType 'vmdk' is none of raw and qcow2\n"),
    ("POST", "/image", r#"{"Name":"x","DiskCompressionStrategy":"lz4"}"#, 400, "DiskCompressionStrategy 'lz4' is none of none, gzip and zstd\n"),
    ("POST", "/image", r#"{"Name":"x","DiskTransferStrategy":"ftp"}"#, 400, "DiskTransferStrategy 'ftp' is none of http and nbd\n"),
    ("POST", "/image", r#"{"Name":"x","Filesystem":"ntfs"}"#, 400, "Filesystem 'ntfs' is none of"),
    ("POST", "/image", r#"{"Name":"x","Filesystem":"ext4"}"#, 501, "formatting an empty image comes with the control server"),
    ("POST", "/image", r#"{"Name":"x","Filesystem":"FAT32"}"#, 501, "formatting an empty image comes with the control server"),
    ("POST", "/image", r#"{"Name":"x","Versioned":"no"}"#, 400, "Versioned is neither true nor false\n"),
    ("POST", "/image", r#"{"Name":"x","Associated":"a/b"}"#, 400, "Associated is not a list of texts\n"),
    ("POST", "/image", r#"{"Name":"x","Associated":["nothing"]}"#, 400, ""),
    ("POST", "/image", r#"{"Name":"x","Associated":["00000000-0000-4000-8000-000000000000"]}"#, 404, "image 00000000-0000-4000-8000-000000000000 does not exist"),
    ("POST", "/image", "{\"Name\":\"a\u{202e}b\"}", 400, "title has the character"),
    ("POST", "/image", r#"{"Name":"x","Username":"unknown"}"#, 403, "making image unknown/x needs its owner or role admin\n"),
    ("GET", "/image/none", "", 404, "image none does not exist or is not yours to see\n"),
    ("GET", "/image/00000000-0000-4000-8000-000000000000", "", 404, "image 00000000-0000-4000-8000-000000000000 does not exist"),
    ("PUT", "/image/00000000-0000-4000-8000-000000000000", "{}", 404, "image 0000"),
    ("DELETE", "/image/00000000-0000-4000-8000-000000000000", "", 404, "image 0000"),
    ("POST", "/image/00000000-0000-4000-8000-000000000000", "x", 404, "image 0000"),
    ("POST", "/image/00000000-0000-4000-8000-000000000000/docker", "x", 404, "image 0000"),
    ("GET", "/image/00000000-0000-4000-8000-000000000000/latest", "", 404, "image 0000"),
    ("PUT", "/image/{uuid}", "x", 400, "couldn't decode image model\n"),
    ("PUT", "/image/{uuid}", r#"{"UUID":"00000000-0000-4000-8000-000000000000"}"#, 400, "UUID '00000000-0000-4000-8000-000000000000' is not that of the path\n"),
    ("PUT", "/image/{uuid}", r#"{"Type":"moon"}"#, 400, "Type 'moon'"),
    ("PUT", "/image/{uuid}", r#"{"Type":"system"}"#, 403, "making image "),
    ("PUT", "/image/{uuid}", r#"{"Username":"admin"}"#, 403, "giving away image "),
    ("GET", "/image/{uuid}/1", "", 404, "version "),
    ("GET", "/image/{uuid}/99999999999999999999", "", 404, "Cannot download the image\n"),
    ("GET", "/image/{uuid}/-1", "", 404, "Cannot download the image\n"),
    ("GET", "/image/{uuid}/stable", "", 404, "Cannot download the image\n"),
    ("GET", "/image/{uuid}/0?compress=lz4", "", 400, "compress 'lz4' is none of none, gzip and zstd\n"),
    ("POST", "/image/{uuid}", "x", 415, "the body's Content-Type is ''; multipart/form-data is expected\n"),
];

async fn check(site: &Site, token: &str, name: &str, uuid: &str, lines: &[Line]) {
    for (method, path, body, status, text) in lines {
        let path = path.replace("{name}", name).replace("{uuid}", uuid);
        let mut call = site.call(method, &path).token(token);
        if !body.is_empty() {
            call = call.body(*body);
        }
        let got = call.send().await;
        assert_eq!(got.status, *status, "{method} {path} {body}: {}", got.text());
        let said = got.plain(*status).text();
        assert!(said.starts_with(text), "{method} {path} {body}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_error_is_a_text_that_says_why() {
    for site in Site::each().await {
        let owner = site.person("user").await;
        let uuid = image(&site, &owner, json!({})).await;
        check(&site, &site.admin, &owner.name, &uuid, USERS).await;
        check(&site, &owner.token, &owner.name, &uuid, IMAGES).await;
        let kept = super::shown(&site, &owner, &uuid).await;
        assert_eq!(super::numbers(&kept), [0], "an error changed something");
        let images = site.get(&owner.token, "/user/me/images").await.plain(200).json();
        assert_eq!(images.as_array().unwrap().len(), 1, "an error made something: {images}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_that_are_none_make_no_version() {
    let site = Site::start().await;
    let owner = site.person("user").await;
    let uuid = image(&site, &owner, json!({})).await;
    let bytes = noise(3, 5000);
    let upload = |header: &str, parts: Vec<(&'static str, Option<&'static str>, Vec<u8>)>| {
        let parts: Vec<(&str, Option<&str>, &[u8])> = parts.iter().map(|(a, b, c)| (*a, *b, c.as_slice())).collect();
        let mut call = site.call("POST", &format!("/image/{uuid}")).token(&owner.token).form(&parts);
        if !header.is_empty() {
            call = call.header("X-BAAS-NewVersion", header);
        }
        call.send()
    };
    let file = || ("file", Some("d"), bytes.clone());
    let field = |text: &str| ("newVersion", None, text.as_bytes().to_vec());
    for (header, parts, status, why) in [
        ("maybe", vec![file()], 400, "X-BAAS-NewVersion 'maybe' is none of true and false\n"),
        ("True", vec![file()], 400, "X-BAAS-NewVersion 'True'"),
        ("", vec![], 400, "the form has no part with an image\n"),
        ("", vec![field("true")], 400, "the form has no part with an image\n"),
        ("", vec![field("yes"), file()], 400, "X-BAAS-NewVersion 'yes'"),
        (
            "true",
            vec![field("false"), file()],
            400,
            "the header X-BAAS-NewVersion and the field newVersion say different",
        ),
        ("", vec![file(), field("false")], 400, "the field newVersion comes after the image"),
        ("", vec![("file", Some("d"), Vec::new())], 422, ""),
        ("", vec![file(), ("more", None, vec![b'x'; 2 << 20])], 413, "more than 1048576 bytes follow"),
    ] {
        let got = upload(header, parts).await;
        assert_eq!(got.status, status, "{why}: {}", got.text());
        let said = got.plain(status).text();
        assert!(said.starts_with(why), "{said}");
    }
    for content_type in ["multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=x"] {
        let call =
            site.call("POST", &format!("/image/{uuid}")).token(&owner.token).header("content-type", content_type);
        let status = call.body("x").send().await.status;
        assert!(status == 400 || status == 415, "{content_type}: {status}");
    }
    assert_eq!(super::numbers(&super::shown(&site, &owner, &uuid).await), [0]);
}
