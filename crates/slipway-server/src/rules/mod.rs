//! The rules: one file per noun, each function asks the policy, decides, and acts in one transaction.

pub mod bootstrap;
pub(crate) mod capability_key;
#[cfg(test)]
mod catalogue_test;
pub mod channel;
pub mod checksum;
pub mod content;
pub(crate) mod counts;
pub mod end;
pub mod finding;
pub mod finding_row;
pub mod idempotency;
pub mod image;
pub mod image_empty;
pub mod image_facts;
pub(crate) mod image_feed;
pub mod image_give;
pub(crate) mod image_row;
pub mod journal;
pub mod login;
pub mod owner;
pub mod page;
#[cfg(test)]
mod people_test;
pub mod quota;
pub mod retention;
mod retention_decide;
mod retention_freed;
pub(crate) mod rollback;
pub mod room;
pub mod scrub;
pub mod sharing;
pub mod store_problem;
pub mod task;
#[cfg(test)]
mod test_database;
mod text;
pub mod token;
pub mod trash;
pub mod upload;
pub(crate) mod upload_commit;
pub(crate) mod upload_fill;
pub(crate) mod upload_hold;
pub(crate) mod upload_ingest;
pub mod user;
pub mod user_leave;
pub mod user_rename;
pub mod version;
pub mod version_care;
