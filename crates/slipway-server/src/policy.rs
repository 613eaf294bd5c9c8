//! Who may do what: one function, asked by every rule before it acts.
//!
//! The answer is role ∧ scope ∧ object. It is given in this order, so that nothing is learned on the way: who is nobody hears 401 whatever
//! they ask for; a token that lacks the scope hears so by the name alone, whether the object exists or not; an object that may not be seen
//! is answered like one that is missing; only who sees it learns what is needed.

pub use crate::core::{Caller, CallerUser};
pub use crate::scope::{Scopes, Verb};
use slipway_api::{Code, Problem, Role};
use uuid::Uuid;

/// The built-in account that owns what belongs to nobody in particular.
pub const SYSTEM: &str = "system";

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What somebody wants to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Action {
            $($(#[$doc])* $name,)*
        }

        impl Action {
            /// Every action, for documentation and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The act as it stands in an error.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

actions! {
    /// Ask who one is.
    Identify = "asking who you are";
    /// List images; the list holds only what may be read.
    ImageList = "listing images";
    /// Make an image under an account; on [`Object::Name`].
    ImageCreate = "making";
    /// See an image, its versions and their bytes.
    ImageRead = "reading";
    /// The same with the eyes of the BAAS dialect, in which moderators see every image.
    ImageOversee = "seeing";
    /// Change an image's fields and channels, push versions.
    ImageWrite = "changing";
    /// Put an image or version into the trash, or take it out; see the trash.
    ImageDelete = "deleting";
    /// Change who may read it.
    ImageShare = "sharing";
    /// Give it to another owner.
    ImageGive = "giving away";
    /// Look at, fill, commit or drop an upload; on [`Object::Upload`].
    UploadUse = "using";
    /// List tasks; the list holds only what may be read.
    TaskList = "listing tasks";
    /// See a task and follow it.
    TaskRead = "reading";
    /// Cancel a task.
    TaskCancel = "cancelling";
    /// Prune and check, and see the findings.
    StoreCare = "caring for the store";
    /// Read the journal.
    JournalRead = "reading the journal";
    /// Read the metrics.
    MetricsRead = "reading the metrics";
    /// List all users.
    UserList = "listing users";
    /// See a user.
    UserRead = "reading";
    /// Change a user's name and mail address.
    UserChange = "changing";
    /// Make or delete a user, change a role, disable.
    UserAdmin = "administering";
    /// Change or delete a user as the BAAS dialect has it: oneself, or a plain user for a moderator.
    UserManage = "managing";
    /// Set a password: one's own with the old one, others' as an admin.
    PasswordSet = "setting the password of";
    /// List an account's tokens.
    TokenList = "listing the tokens of";
    /// Make a token for an account.
    TokenMake = "making a token for";
    /// Revoke a token of an account.
    TokenRevoke = "revoking a token of";
}

/// An image as far as the policy looks at it.
#[derive(Clone, Copy, Debug)]
pub struct ImageObject<'a> {
    /// The owning account.
    pub owner: Uuid,
    /// The owner's name; [`SYSTEM`] makes it the system's.
    pub owner_name: &'a str,
    /// The image's name.
    pub slug: &'a str,
    /// Everyone with an account may read it.
    pub public: bool,
    /// Accounts that may read it now; those whose access still waits for a task are not among them.
    pub readers: &'a [Uuid],
    /// It is of type system: what machines run, which moderators look after wherever it lies.
    pub system_type: bool,
}

/// What somebody wants to do it to.
#[derive(Clone, Copy, Debug)]
pub enum Object<'a> {
    /// The server as a whole.
    Server,
    /// An image.
    Image(ImageObject<'a>),
    /// The name of an image that is to be made.
    Name {
        /// The account that shall own it.
        owner: Uuid,
        /// That account's name.
        owner_name: &'a str,
        /// The image's name.
        slug: &'a str,
        /// It shall be of type system.
        system_type: bool,
    },
    /// An image that does not exist, as it was asked for. Asking the policy about it gives the same answer as for an unseen one.
    NoImage {
        /// The owner's name, `me` already replaced.
        owner_name: &'a str,
        /// The image's name.
        slug: &'a str,
    },
    /// An upload into an image.
    Upload {
        /// Its id, for the error.
        id: Uuid,
        /// Who began it.
        maker: Uuid,
        /// The image it fills.
        image: ImageObject<'a>,
    },
    /// A task.
    Task {
        /// Its id, for the error.
        id: Uuid,
        /// Who asked for it; `None` is the server.
        maker: Option<Uuid>,
    },
    /// A user, and what belongs to it: passwords, tokens.
    User {
        /// The account.
        id: Uuid,
        /// Its name.
        name: &'a str,
        /// What it may do.
        role: Role,
    },
    /// A user that does not exist, as it was asked for.
    NoUser {
        /// Its name.
        name: &'a str,
    },
}

impl Object<'_> {
    /// Kind and name as they stand in an error: `image jan/os`.
    pub fn label(&self) -> String {
        match self {
            Self::Server => "the server".to_owned(),
            Self::Image(ImageObject { owner_name, slug, .. })
            | Self::Name { owner_name, slug, .. }
            | Self::NoImage { owner_name, slug } => format!("image {owner_name}/{slug}"),
            Self::Upload { id, .. } => format!("upload {id}"),
            Self::Task { id, .. } => format!("task {id}"),
            Self::User { name, .. } | Self::NoUser { name } => format!("user {name}"),
        }
    }

    /// `owner/name` of the image it is about.
    fn reference(&self) -> Option<String> {
        match self {
            Self::Image(ImageObject { owner_name, slug, .. })
            | Self::Upload { image: ImageObject { owner_name, slug, .. }, .. }
            | Self::Name { owner_name, slug, .. }
            | Self::NoImage { owner_name, slug } => Some(format!("{owner_name}/{slug}")),
            Self::Server | Self::Task { .. } | Self::User { .. } | Self::NoUser { .. } => None,
        }
    }
}

/// The answer for what is not there and for what may not be seen: one text for both. `label` is kind and name, as `image jan/os`.
pub fn missing(label: &str) -> Problem {
    Problem::new(Code::NotFound, format!("{label} does not exist or is not yours to see"))
}

/// The answer for who did not say who they are.
pub fn unauthenticated() -> Problem {
    Problem::new(Code::Unauthenticated, "a token is needed")
        .hint("sign in with `slipway login`, or send `Authorization: Bearer TOKEN`")
}

/// Whether `who` may do `action` to `object`. The one place where this is decided.
///
/// # Errors
/// `unauthenticated` without a user, `not_found` for what may not be seen, `forbidden` naming what is needed.
pub fn allowed(who: &Caller, action: Action, object: &Object<'_>) -> Result<(), Problem> {
    if who.is_server() {
        return match object {
            Object::NoImage { .. } | Object::NoUser { .. } => Err(missing(&object.label())),
            _ => Ok(()),
        };
    }
    let user = who.user.as_ref().ok_or_else(unauthenticated)?;
    scope_check(who, user, action, object)?;
    let standing = Standing::of(user, action, object);
    if !standing.sees {
        return Err(missing(&object.label()));
    }
    match role_need(user, standing, action) {
        None => Ok(()),
        Some(need) => {
            let title = match object {
                Object::Server => format!("{} needs {need}", action.as_str()),
                _ => format!("{} {} needs {need}", action.as_str(), object.label()),
            };
            Err(Problem::new(Code::Forbidden, title))
        }
    }
}

/// How a user stands to an object.
#[derive(Clone, Copy)]
struct Standing {
    sees: bool,
    owns: bool,
    of_system: bool,
    system_type: bool,
    /// It is a user whose role is below the caller's.
    outranks: bool,
}

impl Standing {
    const NONE: Self = Self { sees: false, owns: false, of_system: false, system_type: false, outranks: false };

    fn of(user: &CallerUser, action: Action, object: &Object<'_>) -> Self {
        let admin = user.role == Role::Admin;
        let moderator = user.role >= Role::Moderator;
        let image = |image: &ImageObject<'_>| {
            let owns = image.owner == user.id;
            let of_system = image.owner_name == SYSTEM;
            let seen = owns || of_system || image.public || admin || image.readers.contains(&user.id);
            let overseen = moderator && (image.system_type || action == Action::ImageOversee);
            Self { sees: seen || overseen, owns, of_system, system_type: image.system_type, ..Self::NONE }
        };
        match object {
            Object::Server => Self { sees: true, ..Self::NONE },
            Object::Image(facts) => image(facts),
            Object::Name { owner, owner_name, system_type, .. } => {
                // The names of accounts are no secret to who already has one: they stand in every shared reference.
                Self {
                    sees: true,
                    owns: *owner == user.id,
                    of_system: *owner_name == SYSTEM,
                    system_type: *system_type,
                    ..Self::NONE
                }
            }
            Object::Upload { maker, image: facts, .. } => {
                let own = *maker == user.id;
                let of_image = image(facts);
                Self {
                    sees: (own && of_image.sees) || admin,
                    owns: own && of_image.owns,
                    of_system: own && of_image.of_system,
                    system_type: own && of_image.system_type,
                    ..Self::NONE
                }
            }
            Object::Task { maker, .. } => {
                let owns = *maker == Some(user.id);
                Self { sees: owns || moderator, owns, ..Self::NONE }
            }
            Object::User { id, role, .. } => {
                let owns = *id == user.id;
                Self { sees: owns || moderator, owns, outranks: user.role > *role, ..Self::NONE }
            }
            Object::NoImage { .. } | Object::NoUser { .. } => Self::NONE,
        }
    }
}

/// What is lacking for somebody who sees the object; `None` if nothing is.
fn role_need(user: &CallerUser, standing: Standing, action: Action) -> Option<&'static str> {
    let admin = user.role == Role::Admin;
    let moderator = user.role >= Role::Moderator;
    let of_system = standing.of_system && moderator;
    let (fine, need) = match action {
        Action::Identify | Action::ImageList | Action::TaskList => (true, ""),
        // Who sees an image may read it; who sees a task may follow it.
        Action::ImageRead | Action::ImageOversee | Action::TaskRead | Action::UserRead => (true, ""),
        Action::ImageCreate | Action::ImageWrite | Action::ImageDelete | Action::ImageShare | Action::UploadUse => {
            match (standing.of_system, standing.system_type) {
                (true, _) => (of_system, "role moderator or admin, because it belongs to the system"),
                // Machines run what such an image holds, whoever owns it.
                (false, true) => (moderator, "role moderator or admin, because it is of type system"),
                (false, false) => (standing.owns || admin, "its owner or role admin"),
            }
        }
        Action::ImageGive => (admin, "role admin"),
        Action::UserManage => (
            standing.owns || admin || standing.outranks,
            "the user themselves, role admin, or role moderator for a plain user",
        ),
        Action::TaskCancel => (standing.owns || admin, "its maker or role admin"),
        Action::StoreCare | Action::JournalRead | Action::MetricsRead | Action::UserAdmin => (admin, "role admin"),
        Action::UserList => (moderator, "role moderator or admin"),
        Action::UserChange | Action::PasswordSet | Action::TokenList | Action::TokenMake | Action::TokenRevoke => {
            (standing.owns || admin, "the user themselves or role admin")
        }
    };
    (!fine).then_some(need)
}

/// The scopes of which one is needed; none at all means that any token will do.
fn scope_need(user: &CallerUser, action: Action, object: &Object<'_>) -> &'static [Verb] {
    match action {
        Action::Identify | Action::TaskList => &[],
        // Anybody may follow what they asked for themselves; what others did is care of the store.
        Action::TaskRead => match object {
            Object::Task { maker, .. } if *maker == Some(user.id) => &[],
            _ => &[Verb::Store],
        },
        Action::ImageList | Action::ImageRead | Action::ImageOversee => &[Verb::ImageRead],
        Action::ImageCreate | Action::ImageWrite | Action::UploadUse => &[Verb::ImageWrite],
        Action::ImageDelete => &[Verb::ImageDelete],
        Action::ImageShare | Action::ImageGive => &[Verb::ImageShare],
        // Cancelling one's own import goes with pushing; what others asked for is care of the store.
        Action::TaskCancel => match object {
            Object::Task { maker: Some(maker), .. } if *maker == user.id => &[Verb::ImageWrite, Verb::Store],
            _ => &[Verb::Store],
        },
        Action::StoreCare | Action::JournalRead | Action::MetricsRead => &[Verb::Store],
        // Anybody may look at themselves.
        Action::UserRead => match object {
            Object::User { id, .. } if *id == user.id => &[],
            _ => &[Verb::People],
        },
        Action::UserList
        | Action::UserChange
        | Action::UserAdmin
        | Action::UserManage
        | Action::PasswordSet
        | Action::TokenList
        | Action::TokenMake
        | Action::TokenRevoke => &[Verb::People],
    }
}

fn scope_check(who: &Caller, user: &CallerUser, action: Action, object: &Object<'_>) -> Result<(), Problem> {
    let needed = scope_need(user, action, object);
    let reference = object.reference();
    let has = |verb: &Verb| match &reference {
        Some(reference) => who.scopes.allows_image(*verb, reference),
        None => who.scopes.allows(*verb),
    };
    let Some(first) = needed.first() else { return Ok(()) };
    if needed.iter().any(has) {
        return Ok(());
    }
    let scope = match &reference {
        Some(reference) => format!("{}:{reference}", first.as_str()),
        None => first.as_str().to_owned(),
    };
    let title = match object {
        Object::Server => format!("{} needs a token with scope {scope}", action.as_str()),
        _ => format!("{} {} needs a token with scope {scope}", action.as_str(), object.label()),
    };
    Err(Problem::new(Code::Forbidden, title).hint("`slipway token new` makes one, if your own token may"))
}

#[cfg(test)]
mod tests {
    use super::{Action, Caller, CallerUser, ImageObject, Object, SYSTEM, Scopes, Verb, allowed, missing};
    use slipway_api::{Code, Role, Scope};
    use uuid::Uuid;

    const OWNER: Uuid = Uuid::from_u128(1);
    const READER: Uuid = Uuid::from_u128(2);
    const OTHER: Uuid = Uuid::from_u128(3);
    const STAFF: Uuid = Uuid::from_u128(4);
    const SYSTEM_ID: Uuid = Uuid::from_u128(5);
    const ACTORS: [&str; 6] = ["nobody", "other", "reader", "owner", "moderator", "admin"];

    fn caller(actor: &str, scopes: Scopes) -> Caller {
        let (id, role) = match actor {
            "nobody" => return Caller::nobody(),
            "other" => (OTHER, Role::User),
            "reader" => (READER, Role::User),
            "owner" => (OWNER, Role::User),
            "moderator" => (STAFF, Role::Moderator),
            _ => (STAFF, Role::Admin),
        };
        let user = CallerUser { id, name: actor.to_owned(), role };
        Caller::user(user, Some(Uuid::from_u128(9)), scopes)
    }

    fn image(kind: &str) -> ImageObject<'static> {
        let private = ImageObject {
            owner: OWNER,
            owner_name: "owner",
            slug: "os",
            public: false,
            readers: &[],
            system_type: false,
        };
        match kind {
            "private" => private,
            "shared" => ImageObject { readers: &[READER], ..private },
            "public" => ImageObject { public: true, ..private },
            "os" => ImageObject { system_type: true, ..private },
            _ => ImageObject { owner: SYSTEM_ID, owner_name: SYSTEM, ..private },
        }
    }

    /// What an action is done to, in all the states that matter to it.
    fn objects(action: Action) -> Vec<(&'static str, Object<'static>)> {
        let images = ["private", "shared", "public", "system", "os"];
        match action {
            Action::ImageRead
            | Action::ImageOversee
            | Action::ImageWrite
            | Action::ImageDelete
            | Action::ImageShare
            | Action::ImageGive => images.map(|kind| (kind, Object::Image(image(kind)))).to_vec(),
            Action::ImageCreate => ["private", "system", "os"]
                .map(|kind| {
                    let ImageObject { owner, owner_name, slug, system_type, .. } = image(kind);
                    (kind, Object::Name { owner, owner_name, slug, system_type })
                })
                .to_vec(),
            // Uploads begun by the owner, and one into the system's image begun by staff.
            Action::UploadUse => images
                .map(|kind| {
                    let maker = if matches!(kind, "system" | "os") { STAFF } else { OWNER };
                    (kind, Object::Upload { id: Uuid::nil(), maker, image: image(kind) })
                })
                .to_vec(),
            Action::TaskRead | Action::TaskCancel => vec![
                ("private", Object::Task { id: Uuid::nil(), maker: Some(OWNER) }),
                ("system", Object::Task { id: Uuid::nil(), maker: None }),
            ],
            Action::UserRead
            | Action::UserChange
            | Action::UserAdmin
            | Action::PasswordSet
            | Action::TokenList
            | Action::TokenMake
            | Action::TokenRevoke => vec![("private", Object::User { id: OWNER, name: "owner", role: Role::User })],
            Action::UserManage => [("private", Role::User), ("equal", Role::Moderator), ("above", Role::Admin)]
                .map(|(kind, role)| (kind, Object::User { id: OWNER, name: "owner", role }))
                .to_vec(),
            Action::Identify
            | Action::ImageList
            | Action::TaskList
            | Action::StoreCare
            | Action::JournalRead
            | Action::MetricsRead
            | Action::UserList => vec![("server", Object::Server)],
        }
    }

    fn cell(who: &Caller, action: Action, object: &Object<'_>) -> &'static str {
        match allowed(who, action, object) {
            Ok(()) => "yes",
            Err(problem) => match problem.code {
                Code::Unauthenticated => "401",
                Code::Forbidden => "403",
                Code::NotFound => "404",
                other => panic!("{action:?}: {other:?}"),
            },
        }
    }

    #[test]
    fn the_matrix_of_roles_is_the_golden_one() {
        let mut table = format!("{:<14} {:<8}", "action", "object");
        ACTORS.iter().for_each(|actor| table += &format!(" {actor:>9}"));
        for action in Action::ALL {
            for (kind, object) in objects(*action) {
                table += &format!("\n{:<14} {kind:<8}", format!("{action:?}"));
                for actor in ACTORS {
                    table += &format!(" {:>9}", cell(&caller(actor, Scopes::all()), *action, &object));
                }
            }
        }
        insta::with_settings!({ snapshot_path => "../tests/golden", prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!("policy-roles", table);
        });
    }

    /// An admin's token with one scope only, on an image inside and one outside of its pattern.
    #[test]
    fn the_matrix_of_scopes_is_the_golden_one() {
        let scopes = Verb::ALL.map(Verb::as_str);
        let mut table = format!("{:<14} {:<8}", "action", "object");
        scopes.iter().for_each(|scope| table += &format!(" {scope:>12}"));
        for action in Action::ALL {
            for (kind, object) in objects(*action) {
                table += &format!("\n{:<14} {kind:<8}", format!("{action:?}"));
                for scope in scopes {
                    let narrow = match scope.starts_with("image") {
                        true => format!("{scope}:owner/*"),
                        false => scope.to_owned(),
                    };
                    let who = caller("admin", Scopes::parse(&[Scope(narrow)], "admin").unwrap());
                    table += &format!(" {:>12}", cell(&who, *action, &object));
                }
            }
        }
        insta::with_settings!({ snapshot_path => "../tests/golden", prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!("policy-scopes", table);
        });
    }

    #[test]
    fn what_may_not_be_seen_is_like_what_is_missing() {
        let gone = Object::NoImage { owner_name: "owner", slug: "os" };
        for scopes in
            [Scopes::all(), Scopes::parse(&[Scope("image:read:other/*".into())], "x").unwrap(), Scopes::none()]
        {
            for action in [Action::ImageRead, Action::ImageWrite, Action::ImageDelete, Action::ImageShare] {
                let who = caller("other", scopes.clone());
                let unseen = allowed(&who, action, &Object::Image(image("private"))).unwrap_err();
                let absent = allowed(&who, action, &gone).unwrap_err();
                assert_eq!(unseen, absent, "{action:?} {scopes:?}");
            }
        }
        let other = caller("other", Scopes::all());
        let unseen = allowed(&other, Action::UserRead, &Object::User { id: OWNER, name: "owner", role: Role::User })
            .unwrap_err();
        assert_eq!(unseen, allowed(&other, Action::UserRead, &Object::NoUser { name: "owner" }).unwrap_err());
        assert_eq!(unseen, missing("user owner"));
        // Not even the server or an admin may act on what is not there.
        for who in [Caller::server(), caller("admin", Scopes::all())] {
            assert_eq!(allowed(&who, Action::ImageRead, &gone).unwrap_err(), missing("image owner/os"));
        }
    }

    #[test]
    fn refusals_name_what_is_needed() {
        for (actor, scope, action, kind, title) in [
            ("reader", "*", Action::ImageWrite, "shared", "changing image owner/os needs its owner or role admin"),
            (
                "other",
                "*",
                Action::ImageShare,
                "system",
                "sharing image system/os needs role moderator or admin, because it belongs to the system",
            ),
            (
                "owner",
                "image:read",
                Action::ImageDelete,
                "private",
                "deleting image owner/os needs a token with scope image:delete:owner/os",
            ),
            ("nobody", "*", Action::ImageRead, "public", "a token is needed"),
        ] {
            let who = caller(actor, Scopes::parse(&[Scope(scope.into())], "x").unwrap());
            assert_eq!(allowed(&who, action, &Object::Image(image(kind))).unwrap_err().title, title);
        }
        let who = caller("moderator", Scopes::all());
        assert_eq!(
            allowed(&who, Action::StoreCare, &Object::Server).unwrap_err().title,
            "caring for the store needs role admin"
        );
    }

    #[test]
    fn the_server_may_do_everything_and_nobody_nothing() {
        for action in Action::ALL {
            for (kind, object) in objects(*action) {
                assert!(allowed(&Caller::server(), *action, &object).is_ok(), "{action:?} {kind}");
                assert!(allowed(&Caller::nobody(), *action, &object).is_err(), "{action:?} {kind}");
            }
        }
    }
}
