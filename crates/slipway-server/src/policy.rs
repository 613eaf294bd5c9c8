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
    /// Change an image's fields and channels, push versions.
    ImageWrite = "changing";
    /// Put an image or version into the trash, or take it out; see the trash.
    ImageDelete = "deleting";
    /// Change who may read it.
    ImageShare = "sharing";
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
    let standing = Standing::of(user, object);
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
}

impl Standing {
    fn of(user: &CallerUser, object: &Object<'_>) -> Self {
        let admin = user.role == Role::Admin;
        let moderator = user.role >= Role::Moderator;
        let image = |image: &ImageObject<'_>| {
            let owns = image.owner == user.id;
            let of_system = image.owner_name == SYSTEM;
            Self {
                sees: owns || of_system || image.public || admin || image.readers.contains(&user.id),
                owns,
                of_system,
            }
        };
        match object {
            Object::Server => Self { sees: true, owns: false, of_system: false },
            Object::Image(facts) => image(facts),
            Object::Name { owner, owner_name, .. } => {
                // The names of accounts are no secret to who already has one: they stand in every shared reference.
                Self { sees: true, owns: *owner == user.id, of_system: *owner_name == SYSTEM }
            }
            Object::Upload { maker, image: facts, .. } => {
                let own = *maker == user.id;
                let of_image = image(facts);
                Self { sees: (own && of_image.sees) || admin, owns: own && of_image.owns, of_system: own && of_image.of_system }
            }
            Object::Task { maker, .. } => {
                let owns = *maker == Some(user.id);
                Self { sees: owns || moderator, owns, of_system: false }
            }
            Object::User { id, .. } => {
                let owns = *id == user.id;
                Self { sees: owns || moderator, owns, of_system: false }
            }
            Object::NoImage { .. } | Object::NoUser { .. } => Self { sees: false, owns: false, of_system: false },
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
        Action::ImageRead | Action::TaskRead | Action::UserRead => (true, ""),
        Action::ImageCreate | Action::ImageWrite | Action::ImageDelete | Action::ImageShare | Action::UploadUse => {
            let need = match standing.of_system {
                true => "role moderator or admin, because it belongs to the system",
                false => "its owner or role admin",
            };
            (standing.owns || of_system || admin, need)
        }
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
        Action::Identify | Action::TaskList | Action::TaskRead => &[],
        Action::ImageList | Action::ImageRead => &[Verb::ImageRead],
        Action::ImageCreate | Action::ImageWrite | Action::UploadUse => &[Verb::ImageWrite],
        Action::ImageDelete => &[Verb::ImageDelete],
        Action::ImageShare => &[Verb::ImageShare],
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
    Err(Problem::new(Code::Forbidden, title).hint("`slipway token make` makes one, if your own token may"))
}
