//! Secrets reach a driver and nothing else: not the table, no file of ours, no answer, no log.

use crate::object::What;

/// What stands in a secret's place.
pub const SHOWN: &str = "***";

/// Puts [`SHOWN`] in the place of every secret that is there.
pub fn secrets_blank(what: &mut What) {
    let What::Attach(attach) = what else { return };
    let iscsi = attach.iscsi.as_mut().into_iter().flat_map(|block| [&mut block.password, &mut block.password_in]);
    let rbd = attach.rbd.as_mut().and_then(|block| block.options.as_mut()).map(|options| &mut options.secret);
    for secret in iscsi.chain(rbd).filter(|secret| !secret.is_empty()) {
        SHOWN.clone_into(secret);
    }
}

/// Whether something would need a secret that was not kept.
pub(crate) fn secrets_blanked(what: &What) -> bool {
    let What::Attach(attach) = what else { return false };
    let iscsi = attach.iscsi.iter().flat_map(|block| [&block.password, &block.password_in]);
    let rbd = attach.rbd.as_ref().and_then(|block| block.options.as_ref()).map(|options| &options.secret);
    iscsi.chain(rbd).any(|secret| secret == SHOWN)
}
