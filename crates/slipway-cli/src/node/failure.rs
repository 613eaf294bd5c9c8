//! What a node's service said no to, in terms of commands.

use crate::failure::{Failure, numberless};
use slipway_api::node::{Holder, NodeError, NodeProblem, Unreached};

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let exit = error.exit_code();
        let what = numberless(&error.to_string());
        let (what, next) = match error {
            NodeError::Refused { act, status, problem } => refused(&act, what, status, &problem),
            NodeError::Unreached { why, .. } => (what, unreached_next(why).to_owned()),
            NodeError::Protocol { .. } => {
                let next = "check that the address is that of a node's service, and that both are of one version: \
                            'slipway --version', 'slipway-agent --version'";
                (what, next.to_owned())
            }
            NodeError::Config(_) => {
                (what, "'slipway node --help' says where address, token and certificates come from".to_owned())
            }
        };
        Self::new(exit, what).next(next)
    }
}

/// What the ImageAPI says of most that is wrong with a request.
const VAGUE: &str = "invalid data type";
/// Steps that a server elsewhere has to do its part in.
const REMOTE: &[&str] = &["connect", "rpc", "login"];

/// What and next. The words of the ImageAPI for what is missing or taken say little; the reason is in the hint then.
fn refused(act: &str, what: String, status: u16, problem: &NodeProblem) -> (String, String) {
    if !problem.holders.is_empty() {
        return (format!("{what} (kept by {})", holders(&problem.holders)), holder_next(&problem.holders));
    }
    match &problem.hint {
        Some(hint) if problem.error.is_none() && (matches!(status, 404 | 409) || problem.message == VAGUE) => {
            match hint.split_once("; ") {
                Some((reason, next)) => (format!("{act}: {reason}"), next.to_owned()),
                None => (format!("{act}: {hint}"), usual_next(status).to_owned()),
            }
        }
        // Said to programs; people have options for it.
        Some(hint) if hint.contains("Authorization:") => (what, usual_next(status).to_owned()),
        Some(hint) => (what, hint.clone()),
        None if problem.error.as_ref().is_some_and(|error| REMOTE.contains(&error.step.as_str())) => {
            let next = "look whether that server is up, has what is asked for and lets this node in, then run the command again";
            (what, next.to_owned())
        }
        None => (what, usual_next(status).to_owned()),
    }
}

fn unreached_next(why: Unreached) -> &'static str {
    match why {
        Unreached::NoSocket | Unreached::NoListener => {
            "start the service with 'slipway-agent serve', or name another one with --node or SLIPWAY_NODE"
        }
        Unreached::NotAllowed => {
            "run it as root ('sudo slipway node …'), or as a member of the group that the socket belongs to"
        }
        Unreached::NotTrusted => {
            "name the CA of the node's certificate with --ca FILE, and your own certificate with --cert and --key if it asks for one"
        }
        Unreached::TimedOut | Unreached::Broke => {
            "look whether the service still runs, and whether it asks for a certificate (--cert, --key); 'slipway node ps -a' and 'slipway node ls' show what it has done"
        }
        Unreached::Other => "check the address that --node, SLIPWAY_NODE or the context has",
    }
}

fn usual_next(status: u16) -> &'static str {
    match status {
        401 => "set SLIPWAY_NODE_TOKEN, or name the token's file with --token-file",
        403 => "use another token, or ask whoever runs the node for the right",
        404 => "'slipway node ps -a' and 'slipway node ls' list what there is",
        409 => "'slipway node ps -a' shows what there is; choose another name, or wait until it has ended",
        503 | 504 | 429 => "wait a little, then run the same command again",
        400 | 422 => {
            "correct what is named, then run the command again; 'slipway node COMMAND --help' shows what is expected"
        }
        501 => "this node cannot do that; its log says what it lacks",
        _ => "look at the kernel's log of the node ('dmesg') and at that of the service",
    }
}

fn holder_next(holders: &[Holder]) -> String {
    match holders.first() {
        Some(Holder::Object { id, .. }) => format!("remove that first: 'slipway node rm {id}'"),
        Some(Holder::Mount { path, pid: None }) => format!("unmount it first: 'umount {path}'"),
        Some(Holder::Mount { pid: Some(pid), .. } | Holder::Process { pid, .. }) => {
            format!("end process {pid} first, then run the same command again")
        }
        Some(Holder::Device { name }) => format!("take /dev/{name} away first, then run the same command again"),
        None => "wait until it is free".into(),
    }
}

fn holders(holders: &[Holder]) -> String {
    const MOST: usize = 5;
    let mut words: Vec<String> = holders.iter().take(MOST).map(holder).collect();
    if holders.len() > MOST {
        words.push(format!("{} more", holders.len() - MOST));
    }
    words.join(", ")
}

fn holder(holder: &Holder) -> String {
    match holder {
        Holder::Object { object, id } => format!("{object} {id}"),
        Holder::Mount { path, pid: None } => format!("the mount at {path}"),
        Holder::Mount { path, pid: Some(pid) } => format!("the mount at {path} of process {pid}"),
        Holder::Process { pid, command } => format!("process {pid} ({command})"),
        Holder::Device { name } => format!("device {name}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::failure::Failure;
    use slipway_api::node::{Holder, NodeError, NodeProblem, StepError, Unreached};

    fn refused(status: u16, problem: NodeProblem) -> Failure {
        NodeError::Refused { act: "removing mount 4".into(), status, problem: Box::new(problem) }.into()
    }

    #[test]
    fn refusals_say_who_and_what_next() {
        let problem = |code, message: &str| NodeProblem {
            code,
            message: message.into(),
            error: None,
            holders: Vec::new(),
            hint: None,
        };
        let busy = NodeProblem {
            holders: vec![
                Holder::Object { object: "container".into(), id: 7 },
                Holder::Process { pid: 12, command: "sleep 9".into() },
            ],
            ..problem(409, "object is busy")
        };
        let failure = refused(409, busy);
        assert_eq!(failure.what, "removing mount 4: object is busy (kept by container 7, process 12 (sleep 9))");
        assert_eq!((failure.exit, failure.next.as_deref()), (5, Some("remove that first: 'slipway node rm 7'")));
        let error = StepError {
            step: "mount".into(),
            errno: Some("EINVAL".into()),
            text: "ext4 of /dev/loop1: bad superblock (os error 22)".into(),
        };
        let failure = refused(500, NodeProblem { error: Some(error), ..problem(500, "operation failed") });
        assert_eq!(failure.what, "removing mount 4: ext4 of /dev/loop1: bad superblock");
        for (status, exit) in [(400, 2), (401, 4), (403, 4), (404, 3), (422, 2), (500, 1), (501, 1), (503, 8), (507, 6)]
        {
            let failure = refused(status, problem(status, "words"));
            assert_eq!((failure.exit, failure.next.is_some()), (exit, true), "{status}");
        }
        let taken = NodeProblem {
            hint: Some("the name 'web' is taken by container 8; choose another or delete that one".into()),
            ..problem(409, "object is busy")
        };
        let failure = refused(409, taken);
        assert_eq!(failure.what, "removing mount 4: the name 'web' is taken by container 8");
        assert_eq!(failure.next.as_deref(), Some("choose another or delete that one"));
        let vague = NodeProblem {
            hint: Some("command: 'sleep' is not an absolute path in the image".into()),
            ..problem(400, "invalid data type")
        };
        let failure = refused(400, vague);
        assert_eq!(failure.what, "removing mount 4: command: 'sleep' is not an absolute path in the image");
        let error = StepError { step: "connect".into(), errno: None, text: "NFS server s1.lab:2049: refused".into() };
        let failure = refused(500, NodeProblem { error: Some(error), ..problem(500, "operation failed") });
        assert!(failure.next.unwrap().contains("whether that server is up"));
        for (why, exit) in [(Unreached::NoSocket, 9), (Unreached::NotAllowed, 4), (Unreached::NotTrusted, 9)] {
            let failure = Failure::from(NodeError::Unreached { act: "a".into(), reason: "b".into(), why });
            assert_eq!((failure.exit, failure.next.is_some()), (exit, true), "{why:?}");
        }
    }
}
