//! The kernel of guests and its modules, as Debian's `user-mode-linux` brings them.

use crate::LabError;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "/usr/bin/linux.uml";
const MODULES: &str = "/usr/lib/uml/modules";
const PACKAGE: &str = "user-mode-linux";

/// A kernel that can be started.
pub(crate) struct Kernel {
    /// The program that it is.
    pub(crate) program: PathBuf,
    /// The folder with its modules.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// The installed one.
    pub(crate) fn find() -> Result<Self, LabError> {
        let missing = |what: &str| LabError::Missing { what: what.to_owned(), package: PACKAGE };
        if !Path::new(PROGRAM).exists() {
            return Err(missing(PROGRAM));
        }
        let out = Command::new(PROGRAM).arg("--version").output().map_err(LabError::io("starting", PROGRAM))?;
        let version = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        let modules = Path::new(MODULES).join(&version);
        match modules.join("modules.dep").exists() {
            true => Ok(Self { program: PROGRAM.into(), modules }),
            false => Err(missing(&modules.join("modules.dep").display().to_string())),
        }
    }

    /// The files of these modules and of what they need, relative to the folder, in the order of loading. What is built into the kernel
    /// needs no file.
    pub(crate) fn modules_with_needs(&self, names: &[String]) -> Result<Vec<String>, LabError> {
        let read = |name: &str| {
            let path = self.modules.join(name);
            std::fs::read_to_string(&path).map_err(LabError::io("reading", path.display().to_string()))
        };
        modules_order(names, &read("modules.dep")?, &read("modules.builtin")?).map_err(|name| LabError::Refused {
            what: format!("looking for the kernel module {name}"),
            said: format!("{} does not name it", self.modules.join("modules.dep").display()),
        })
    }
}

/// What must be loaded for `names`, needs first; an error is the name that is not known.
fn modules_order(names: &[String], dep: &str, builtin: &str) -> Result<Vec<String>, String> {
    let plain = |text: &str| text.replace('-', "_");
    let stem = |path: &str| plain(path.rsplit('/').next().unwrap_or(path).split('.').next().unwrap_or(path));
    let rows: BTreeMap<String, (String, Vec<String>)> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| (stem(path), (path.to_owned(), needs.split_whitespace().map(str::to_owned).collect())))
        .collect();
    let built: BTreeSet<String> = builtin.lines().map(stem).collect();
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    for name in names {
        match rows.get(&plain(name)) {
            // depmod lists needs from the nearest to the farthest: the last must be loaded first.
            Some((path, needs)) => {
                let all = needs.iter().rev().chain([path]);
                order.extend(all.filter(|path| seen.insert((*path).clone())).cloned());
            }
            None if built.contains(&plain(name)) => {}
            None => return Err(name.clone()),
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::modules_order;

    #[test]
    fn needs_are_loaded_first_and_once() {
        let dep = "kernel/a.ko:\nkernel/b-x.ko: kernel/a.ko\nkernel/c.ko: kernel/b-x.ko kernel/a.ko\n";
        let check = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            modules_order(&names, dep, "kernel/fs/ext4.ko\n")
        };
        assert_eq!(check(&["c", "b_x"]).unwrap(), ["kernel/a.ko", "kernel/b-x.ko", "kernel/c.ko"]);
        assert_eq!(check(&["ext4"]).unwrap(), [""; 0]);
        assert_eq!(check(&["a", "nothing"]).unwrap_err(), "nothing");
    }
}
