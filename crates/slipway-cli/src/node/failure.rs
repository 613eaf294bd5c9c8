//! What a node's service said no to, in terms of commands.

use crate::failure::Failure;
use slipway_api::node::{Holder, NodeError, NodeProblem, Unreached};

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let exit = error.exit_code();
        let mut what = error.to_string();
        let next = match error {
            NodeError::Refused { status, problem, .. } => {
                if !problem.holders.is_empty() {
                    what = format!("{what} (kept by {})", holders(&problem.holders));
                }
                refused_next(status, &problem)
            }
            NodeError::Unreached { why, .. } => unreached_next(why).into(),
            NodeError::Protocol { .. } => {
                "check that the address is that of a node's service, and that both are of one version: 'slipway --version', 'slipway-agent --version'".into()
            }
            NodeError::Config(_) => "'slipway node --help' says where address, token and certificates come from".into(),
        };
        Self::new(exit, what).next(next)
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
            "look whether the service still runs; 'slipway node ps -a' and 'slipway node ls' show what it has done"
        }
        Unreached::Other => "check the address that --node, SLIPWAY_NODE or the context has",
    }
}

fn refused_next(status: u16, problem: &NodeProblem) -> String {
    if let Some(hint) = &problem.hint {
        return hint.clone();
    }
    match status {
        401 => "set SLIPWAY_NODE_TOKEN, or name the token's file with --token-file".into(),
        403 => "use another token, or ask whoever runs the node for the right".into(),
        404 => "'slipway node ps -a' and 'slipway node ls' list what there is".into(),
        409 if problem.holders.is_empty() => {
            "'slipway node ps -a' shows what there is; choose another name, or wait until it has ended".into()
        }
        409 => holder_next(&problem.holders),
        503 | 504 | 429 => "wait a little, then run the same command again".into(),
        400 | 422 => {
            "correct what is named, then run the command again; 'slipway node COMMAND --help' shows what is expected"
                .into()
        }
        501 => "this node cannot do that; its log says what it lacks".into(),
        _ => "look at the kernel's log of the node ('dmesg') and at that of the service".into(),
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
            text: "ext4 of /dev/loop1: bad superblock".into(),
        };
        let failure = refused(500, NodeProblem { error: Some(error), ..problem(500, "operation failed") });
        assert_eq!(failure.what, "removing mount 4: ext4 of /dev/loop1: bad superblock");
        for (status, exit) in [(400, 2), (401, 4), (403, 4), (404, 3), (422, 2), (500, 1), (501, 1), (503, 8), (507, 6)]
        {
            let failure = refused(status, problem(status, "words"));
            assert_eq!((failure.exit, failure.next.is_some()), (exit, true), "{status}");
        }
        for (why, exit) in [(Unreached::NoSocket, 9), (Unreached::NotAllowed, 4), (Unreached::NotTrusted, 9)] {
            let failure = Failure::from(NodeError::Unreached { act: "a".into(), reason: "b".into(), why });
            assert_eq!((failure.exit, failure.next.is_some()), (exit, true), "{why:?}");
        }
    }
}
