//! The rules: one file per noun, each function asks the policy, decides, and acts in one transaction.

pub mod idempotency;
mod image_row;
pub mod journal;
pub mod owner;
pub mod page;
pub mod bootstrap;
pub mod login;
pub mod token;
pub mod user;
