use super::{Bench, PASSWORD, as_user, caller_of, count, each, meddle, refused, user_add, verbs};
use crate::core::{Caller, Core};
use crate::rules::bootstrap::admin_token_bootstrap;
use crate::rules::login::{setup, setup_code_make, setup_is_open};
use crate::rules::token::{token_authenticate, token_revoke};
use crate::secret::TokenSecret;
use slipway_api::{Code, Problem, Role, Session, Setup};
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

async fn redeem(core: &Core, code: &str) -> Result<Session, Problem> {
    let wish = Setup { code: code.into(), name: None, password: PASSWORD.into() };
    setup(core, &Caller::nobody(), None, wish).await
}

#[tokio::test]
async fn a_setup_code_works_once_and_for_an_hour() {
    each(async |bench| {
        let core = &bench.core;
        let old = setup_code_make(core).await.unwrap().unwrap();
        let late = setup_code_make(core).await.unwrap().unwrap();
        assert!(setup_is_open(core).await.unwrap());
        refused(redeem(core, &old).await, Code::Unauthenticated);
        meddle(core, "UPDATE setup_code SET expires_at = created_at").await;
        refused(redeem(core, &late).await, Code::Unauthenticated);
        let code = setup_code_make(core).await.unwrap().unwrap();
        for wrong in ["", "admin", &code[1..]] {
            refused(redeem(core, wrong).await, Code::Unauthenticated);
        }
        core.sign_ins.succeeded("/setup", None);
        let short = Setup { code: code.clone(), name: None, password: "short".into() };
        refused(setup(core, &Caller::nobody(), None, short).await, Code::InvalidRequest);
        core.sign_ins.succeeded("/setup", None);
        // Of two at once, one wins.
        let capitals = code.to_uppercase();
        let (one, two) = tokio::join!(redeem(core, &code), redeem(core, &capitals));
        assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1);
        let session = one.or(two).unwrap();
        let who = caller_of(core, &session.token).await;
        assert_eq!(who.user.map(|user| (user.name, user.role)), Some(("admin".to_owned(), Role::Admin)));
        refused(redeem(core, &code).await, Code::Conflict);
        assert!(!setup_is_open(core).await.unwrap());
        assert_eq!(setup_code_make(core).await.unwrap(), None);
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM setup_code").await, 0);
        assert_eq!(verbs(core).await, ["setup_code_make", "setup_code_make", "setup_code_make", "setup", "token_make"]);
    })
    .await;
}

#[tokio::test]
async fn a_taken_name_does_not_use_up_the_code() {
    each(async |bench| {
        let core = &bench.core;
        user_add(core, "admin", Role::User, None).await;
        let code = setup_code_make(core).await.unwrap().unwrap();
        refused(redeem(core, &code).await, Code::NameTaken);
        let other = Setup { code, name: Some("root".parse().unwrap()), password: PASSWORD.into() };
        assert_eq!(setup(core, &Caller::nobody(), None, other).await.unwrap().user.as_str(), "root");
    })
    .await;
}

fn file(bench: &Bench) -> PathBuf {
    bench.folder.path().join("admin.token")
}

async fn token_in(bench: &Bench) -> Result<Caller, Problem> {
    let text = std::fs::read_to_string(file(bench)).unwrap();
    token_authenticate(&bench.core, text.trim_end()).await
}

#[tokio::test]
async fn the_first_start_writes_a_token_and_later_ones_leave_it() {
    each(async |bench| {
        let (core, path) = (&bench.core, file(&bench));
        assert_eq!(admin_token_bootstrap(core, &path).await.unwrap(), None);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let who = token_in(&bench).await.unwrap();
        assert_eq!(who.user.as_ref().map(|user| (user.name.as_str(), user.role)), Some(("admin", Role::Admin)));
        assert_eq!(setup_code_make(core).await.unwrap(), None);
        let lines = verbs(core).await;
        assert_eq!(admin_token_bootstrap(core, &path).await.unwrap(), None);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(verbs(core).await, lines);
        // Lost or revoked: said, not repaired.
        let kept = bench.folder.path().join("kept");
        std::fs::rename(&path, &kept).unwrap();
        assert!(admin_token_bootstrap(core, &path).await.unwrap().unwrap().contains("is not there"));
        assert!(!path.exists());
        std::fs::rename(&kept, &path).unwrap();
        token_revoke(core, &who, who.token.unwrap()).await.unwrap();
        let said = admin_token_bootstrap(core, &path).await.unwrap().unwrap();
        assert!(said.contains("does not work any more") && !said.contains(text.trim_end()), "{said}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        // An empty file asks for a new one.
        std::fs::write(&path, "").unwrap();
        assert_eq!(admin_token_bootstrap(core, &path).await.unwrap(), None);
        assert_ne!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        token_in(&bench).await.unwrap();
        assert_eq!(
            std::fs::read_dir(bench.folder.path())
                .unwrap()
                .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().contains("admin.token.") })
                .count(),
            0,
            "nothing is left behind"
        );
    })
    .await;
}

#[tokio::test]
async fn a_start_that_died_half_way_is_completed() {
    each(async |bench| {
        let (core, path) = (&bench.core, file(&bench));
        let secret = TokenSecret::random();
        std::fs::write(&path, secret.reveal()).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(admin_token_bootstrap(core, &path).await.unwrap(), None);
        assert!(token_in(&bench).await.is_ok());
        assert_eq!(as_user(core, "admin").await.user.unwrap().role, Role::Admin);
    })
    .await;
}

#[tokio::test]
async fn a_file_that_cannot_be_trusted_stops_the_start() {
    each(async |bench| {
        let (core, path) = (&bench.core, file(&bench));
        let target = bench.folder.path().join("target");
        for what in ["readable by others", "garbage", "a folder", "a link", "in no folder"] {
            let mut at = path.clone();
            match what {
                "readable by others" => {
                    std::fs::write(&path, TokenSecret::random().reveal()).unwrap();
                    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
                }
                "garbage" => {
                    std::fs::write(&path, "hello").unwrap();
                    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
                }
                "a folder" => std::fs::create_dir(&path).unwrap(),
                "a link" => symlink(&target, &path).unwrap(),
                _ => at = bench.folder.path().join("absent/admin.token"),
            }
            let problem = refused(admin_token_bootstrap(core, &at).await, Code::Internal);
            assert!(problem.title.contains("admin.token"), "{what}: {problem:?}");
            assert!(setup_is_open(core).await.unwrap(), "{what}: no admin was made");
            assert!(!target.exists());
            let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path));
        }
    })
    .await;
}
