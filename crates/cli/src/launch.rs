//! `--devices`: this program again under `mpiexec`, with one process a device.

use crate::devices::{self, DeviceArgument};
use crate::failure::{Ended, Failure, Interrupted};
use crate::output::shell_word;
use crate::ranks;
use mpi::Launch;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// The flags that choose devices, for verbs that train on several.
#[derive(clap::Args)]
pub(crate) struct DevicesArguments {
    #[command(flatten)]
    one: DeviceArgument,
    /// Several devices of this machine, such as cuda:0,cuda:1 or flex,flex: one process each, under `mpiexec`, whose line is
    /// printed. For builds with MPI (docs/distributed.md)
    #[arg(
        long,
        value_name = "DEVICES",
        value_delimiter = ',',
        conflicts_with = "device"
    )]
    devices: Vec<String>,
}

impl DevicesArguments {
    /// The device of this process.
    pub(crate) fn one(&self) -> DeviceArgument {
        match self.devices.as_slice() {
            [one] => DeviceArgument::named(one),
            _ => self.one.clone(),
        }
    }

    /// Runs this program on each of several devices and waits for its end; `None` if one device is named, for this process.
    ///
    /// # Errors
    /// Devices that cannot be shared, no MPI, and the end of the launched processes other than success: [`Ended`] with their exit
    /// status, whose reason they have printed.
    pub(crate) fn launched(&self) -> Option<anyhow::Result<()>> {
        (self.devices.len() > 1).then(|| {
            let here = std::env::current_exe()?;
            let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
            let line = line(&self.devices, &here, &arguments, &Found::here()).map_err(ranks::said_once)?;
            let words: Vec<String> = line
                .iter()
                .map(|word| shell_word(&word.to_string_lossy()))
                .collect();
            eprintln!("running: {}", words.join(" "));
            match run(&line)? {
                0 => Ok(()),
                130 => Err(Interrupted.into()),
                status => Err(Ended(status).into()),
            }
        })
    }
}

/// What a launch needs of its surroundings.
struct Found {
    /// The launcher that started this process as one of several.
    launcher: Option<Launch>,
    /// The MPI library of this build.
    library: Option<String>,
    mpiexec: Option<PathBuf>,
}

impl Found {
    fn here() -> Self {
        Self {
            launcher: Launch::of_environment(),
            library: mpi::library(),
            mpiexec: ["mpiexec", "mpirun"].into_iter().find_map(in_path),
        }
    }
}

/// A program in the folders of `PATH`.
fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(name));
    found.into_iter().find(|file| file.is_file())
}

/// The whole command line: `mpiexec -n 2 passer pretrain … --device cuda`.
fn line(
    names: &[String],
    program: &Path,
    arguments: &[OsString],
    found: &Found,
) -> Result<Vec<OsString>, Failure> {
    if let Some(launch) = &found.launcher {
        return Err(Failure::new(format!(
            "`--devices` starts the processes itself, and a launcher started {} ({})",
            launch.size, launch.variable
        ))
        .hint("under a launcher pass `--device cuda` (or flex): each rank takes the device of its number; or drop the launcher"));
    }
    check(names)?;
    let Some(library) = &found.library else {
        return Err(Failure::new("`--devices` needs MPI, and this build has none").hint(
            "build with `cargo build --release --features mpi` on this machine, which needs MPI's headers (docs/distributed.md)",
        ));
    };
    let Some(mpiexec) = &found.mpiexec else {
        return Err(Failure::new("`--devices` runs `mpiexec`, and no folder of `PATH` has it").hint(format!(
            "this program is linked to {library}: install its programs (Debian: openmpi-bin), or add them to `PATH` (clusters: `module \
             load openmpi`)"
        )));
    };
    let mut line = vec![mpiexec.as_os_str().to_owned()];
    if library.starts_with("Open MPI") {
        // It counts processor cores, not GPUs or threads, and binds each of two processes to one core.
        line.extend(["--oversubscribe", "--bind-to", "none"].map(OsString::from));
    }
    for (place, (count, device)) in groups(names).into_iter().enumerate() {
        if place > 0 {
            line.push(":".into());
        }
        line.extend([
            "-n".into(),
            count.to_string().into(),
            program.as_os_str().to_owned(),
        ]);
        line.extend(with_device(arguments, &device));
    }
    Ok(line)
}

/// Gives an error if these devices cannot be those of one run each.
fn check(names: &[String]) -> Result<(), Failure> {
    let mut seen = vec![];
    for name in names {
        if name == "auto" {
            return Err(Failure::new("`--devices` must name each device, got `auto`")
                .hint("`passer devices` lists them: `--devices cuda:0,cuda:1`, or `--devices flex,flex`"));
        }
        let device = devices::parse(name)?;
        if device.0 == "flex" {
            continue;
        }
        if device.1.is_none() {
            return Err(
                Failure::new(format!("`--devices` must number each device, got `{name}`"))
                    .hint(format!("`--devices {name}:0,{name}:1`")),
            );
        }
        if seen.contains(&device) {
            return Err(Failure::new(format!("`--devices` names `{name}` twice"))
                .hint("each process has a device of its own; `flex`, the CPU, alone may be named again"));
        }
        seen.push(device);
    }
    Ok(())
}

/// Neighbors that one part of the line can start: the number of processes, and their `--device`.
fn groups(names: &[String]) -> Vec<(usize, String)> {
    // `cuda:0,cuda:1,…`: each rank takes the device of its number.
    if let Some((backend, _)) = names.first().and_then(|first| first.split_once(':'))
        && (names.iter().enumerate()).all(|(index, name)| *name == format!("{backend}:{index}"))
    {
        return vec![(names.len(), backend.to_owned())];
    }
    let mut groups: Vec<(usize, String)> = vec![];
    for name in names {
        match groups.last_mut() {
            Some((count, last)) if last == name => *count += 1,
            _ => groups.push((1, name.clone())),
        }
    }
    groups
}

/// This program's arguments with `--device` in the place of `--devices`.
fn with_device(arguments: &[OsString], device: &str) -> Vec<OsString> {
    let mut changed = vec![];
    let mut rest = arguments.iter();
    let mut placed = false;
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy();
        if argument == "--devices" || text.starts_with("--devices=") {
            if argument == "--devices" {
                rest.next();
            }
            if !placed {
                changed.extend([OsStr::new("--device"), OsStr::new(device)].map(OsStr::to_owned));
                placed = true;
            }
        } else {
            changed.push(argument.clone());
        }
    }
    changed
}

/// Runs a command line to its end and returns its exit status.
fn run(line: &[OsString]) -> anyhow::Result<u8> {
    use anyhow::Context;
    let [program, arguments @ ..] = line else {
        anyhow::bail!("an empty command line");
    };
    let mut command = Command::new(program);
    // The ranks read nothing. A launcher that waited for the terminal would be stopped, being in a group of its own.
    command.args(arguments).stdin(Stdio::null());
    let forwarding = forwarding::before(&mut command)?;
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run `{}`", program.to_string_lossy()))?;
    forwarding.to(&child);
    Ok(status_of(child.wait()?))
}

/// The exit status as a shell reports it.
fn status_of(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    #[cfg(not(unix))]
    let signal = None;
    let code = status.code().or(signal);
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Ctrl-C and a scheduler's signals, passed on as what the ranks stop at with a checkpoint.
#[cfg(unix)]
mod forwarding {
    use crate::interrupt::{self, Request, Requests};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use signal_hook::iterator::Signals;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};
    use std::time::Instant;

    pub(super) struct Forwarding(Signals);

    /// Catches signals, and puts the command in a process group of its own: Ctrl-C on a terminal goes to the whole group, and
    /// mpirun would kill its ranks at once.
    pub(super) fn before(command: &mut Command) -> anyhow::Result<Forwarding> {
        let signals = Signals::new(interrupt::signals())?;
        command.process_group(0);
        Ok(Forwarding(signals))
    }

    impl Forwarding {
        /// Sends the launcher SIGUSR1 at the first request, which stops all ranks with a checkpoint, and SIGTERM at a second one,
        /// which ends them at once.
        pub(super) fn to(mut self, child: &Child) {
            let launcher = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
            std::thread::spawn(move || {
                let requests = Requests::default();
                for _ in self.0.forever() {
                    let signal = match requests.next(Instant::now()) {
                        Request::First => Signal::SIGUSR1,
                        Request::Echo => continue,
                        Request::Second => Signal::SIGTERM,
                    };
                    // It may have ended meanwhile.
                    let _ = kill(launcher, signal);
                }
            });
        }
    }
}

#[cfg(not(unix))]
mod forwarding {
    use std::process::{Child, Command};

    pub(super) struct Forwarding;

    pub(super) fn before(_: &mut Command) -> anyhow::Result<Forwarding> {
        Ok(Forwarding)
    }

    impl Forwarding {
        pub(super) fn to(self, _: &Child) {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn found() -> Found {
        Found {
            launcher: None,
            library: Some("Open MPI v4.1.4".into()),
            mpiexec: Some("/usr/bin/mpiexec".into()),
        }
    }

    fn started(devices: &str, found: &Found) -> Result<String, String> {
        let names: Vec<String> = devices.split(',').map(String::from).collect();
        let arguments = ["pretrain", "a.toml", "--devices", devices, "--out", "run"].map(OsString::from);
        let line = line(&names, Path::new("passer"), &arguments, found);
        line.map(|line| line.join(OsStr::new(" ")).into_string().unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    #[cfg(feature = "flex")]
    fn a_process_is_started_for_each_device() {
        assert_eq!(
            started("flex,flex,flex", &found()).unwrap(),
            "/usr/bin/mpiexec --oversubscribe --bind-to none -n 3 passer pretrain a.toml --device flex --out run"
        );
        let mpich = Found {
            library: Some("MPICH Version: 4.0.2".into()),
            ..found()
        };
        assert_eq!(
            started("flex,flex:0", &mpich).unwrap(),
            "/usr/bin/mpiexec -n 1 passer pretrain a.toml --device flex --out run : -n 1 passer pretrain a.toml --device flex:0 \
             --out run"
        );
        let names = |names: &[&str]| groups(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>());
        // All from the first on: ranks choose by their number.
        assert_eq!(names(&["cuda:0", "cuda:1", "cuda:2"]), [(3, "cuda".into())]);
        assert_eq!(
            names(&["cuda:2", "cuda:3"]),
            [(1, "cuda:2".into()), (1, "cuda:3".into())]
        );
        assert_eq!(
            names(&["cuda:1", "cuda:0"]),
            [(1, "cuda:1".into()), (1, "cuda:0".into())]
        );
    }

    #[test]
    fn the_flag_is_replaced_in_both_forms() {
        let changed = |arguments: &[&str]| {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            with_device(&arguments, "flex")
                .join(OsStr::new(" "))
                .into_string()
                .unwrap()
        };
        assert_eq!(
            changed(&["pretrain", "--devices=flex,flex", "x"]),
            "pretrain --device flex x"
        );
        assert_eq!(
            changed(&["pretrain", "--devices", "flex", "x", "--devices", "flex"]),
            "pretrain --device flex x"
        );
    }

    #[test]
    #[cfg(feature = "flex")]
    fn what_cannot_start_is_an_error() {
        let error = started("flex,auto", &found()).unwrap_err();
        assert_eq!(error, "`--devices` must name each device, got `auto`");
        let error = started("flex,tpu", &found()).unwrap_err();
        assert!(
            error.starts_with("device `tpu`: expected auto, flex (the CPU)"),
            "{error}"
        );
        let launched = Found {
            launcher: Some(Launch {
                variable: "PMI_SIZE",
                size: 4,
                rank: None,
            }),
            ..found()
        };
        let error = started("flex,flex", &launched).unwrap_err();
        assert_eq!(
            error,
            "`--devices` starts the processes itself, and a launcher started 4 (PMI_SIZE)"
        );
        let without = Found {
            library: None,
            ..found()
        };
        let error = started("flex,flex", &without).unwrap_err();
        assert_eq!(error, "`--devices` needs MPI, and this build has none");
        let without = Found {
            mpiexec: None,
            ..found()
        };
        let error = started("flex,flex", &without).unwrap_err();
        assert_eq!(
            error,
            "`--devices` runs `mpiexec`, and no folder of `PATH` has it"
        );
    }

    #[test]
    #[cfg(feature = "wgpu")]
    fn a_gpu_is_numbered_and_named_once() {
        let error = started("wgpu:0,flex,wgpu:0", &found()).unwrap_err();
        assert_eq!(error, "`--devices` names `wgpu:0` twice");
        // Two spellings of one number.
        let error = started("wgpu:0,wgpu:00", &found()).unwrap_err();
        assert_eq!(error, "`--devices` names `wgpu:00` twice");
        let error = started("wgpu,wgpu", &found()).unwrap_err();
        assert_eq!(error, "`--devices` must number each device, got `wgpu`");
    }

    #[test]
    #[cfg(unix)]
    fn the_exit_status_is_handed_over() {
        let status = |script: &str| run(&["sh", "-c", script].map(OsString::from)).unwrap();
        assert_eq!(status("exit 0"), 0);
        assert_eq!(status("exit 130"), 130);
        assert_eq!(status("kill -KILL $$"), 137);
        assert!(run(&[OsString::from("/no/such/mpiexec")]).is_err());
    }
}
