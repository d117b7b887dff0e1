//! Programs inside machines.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use vnetd::host::backing::{Backing, MachineFile};
use vnetd::host::exec::{Child, ExecSpec, SpawnError, machine_environment, no_stdio};
use vnetd::host::netns::Netns;
use vnetd::host::process;
use vnetd::host::supervise::{RunSpec, RunState, Supervised};

use crate::lab::{Lab, launcher};
use crate::{Case, Outcome};

pub(crate) fn tests() -> Vec<Case> {
    vec![
        ("a_program_sees_its_machine_only", sees_its_machine_only),
        ("files_are_seen_inside_and_never_outside", files_inside_only),
        ("two_machines_do_not_share_run_and_tmp", run_and_tmp_apart),
        ("exit_codes_come_back", exit_codes),
        ("a_program_that_is_not_there_says_so", not_there),
        ("a_terminal_controls_its_session", terminal),
        ("every_process_of_a_machine_ends", every_process_ends),
        ("output_goes_to_the_log", logged),
        ("a_supervised_program_is_started_again_and_taken_over", supervised),
        ("mounts_of_programs_do_not_leak", mounts_do_not_leak),
    ]
}

struct Machine {
    ns: Netns,
    backing: Backing,
    name: String,
}

impl Machine {
    fn new(lab: &Lab, name: &str, files: &[MachineFile]) -> Self {
        Self { ns: lab.namespace(name), backing: lab.backing(name, files), name: name.to_owned() }
    }

    fn spawn(&self, argv: &[&str], stdio: [OwnedFd; 3], terminal: bool) -> Result<Child, SpawnError> {
        launcher().spawn(ExecSpec {
            ns: &self.ns,
            backing: &self.backing,
            hostname: &self.name,
            argv: argv.iter().map(ToString::to_string).collect(),
            env: machine_environment(&self.name),
            cwd: None,
            user: None,
            stdio,
            terminal,
        })
    }

    /// What a shell line prints on standard output, and its exit code.
    fn shell(&self, line: &str) -> Result<(String, i32), SpawnError> {
        let (read, write) = std::io::pipe().unwrap();
        let [stdin, _, stderr] = no_stdio()?;
        let mut child = self.spawn(&["sh", "-c", line], [stdin, write.into(), stderr], false)?;
        let mut text = String::new();
        File::from(OwnedFd::from(read)).read_to_string(&mut text).unwrap();
        Ok((text, child.wait()?))
    }
}

fn sees_its_machine_only() -> Outcome {
    let lab = Lab::new();
    let web = Machine::new(&lab, "web", &[]);
    let own_name = fs::read_to_string("/proc/sys/kernel/hostname")?;
    assert_eq!(web.shell("hostname; cat /etc/hostname")?.0, "web\nweb\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname")?, own_name);
    assert_eq!(web.shell("ls /sys/class/net")?.0, "lo\n", "sysfs is that of the machine's namespace");
    assert_eq!(
        web.shell("ls /run/netns 2>&1 | wc -l; cat /etc/resolv.conf")?.0,
        "1\nnameserver 168.63.129.16\n"
    );
    assert_eq!(
        web.shell("pwd; grep -c vnet.t /proc/self/mountinfo")?.0,
        "/\n0\n",
        "no name of a namespace is left"
    );
    let inode = web.ns.id()?.inode;
    assert_eq!(web.shell("readlink /proc/self/ns/net")?.0, format!("net:[{inode}]\n"));
    assert_eq!(web.shell("ls /proc/self/fd | wc -l")?.0, "4\n", "three, and the one that ls opens");
    Ok(())
}

fn files_inside_only() -> Outcome {
    let lab = Lab::new();
    let file =
        |path: &str, contents: &str, mode| MachineFile { path: path.into(), contents: contents.into(), mode };
    let files = [
        file("/etc/vnetd-test/deep/nva.nft", "table inet t {}", 0o644),
        file("/usr/local/bin/vnetd-test-script", "#!/bin/sh\necho ran", 0o755),
        file("/run/vnetd-test", "here", 0o644),
        file("/etc/hosts", "10.0.0.1 own", 0o644),
    ];
    let web = Machine::new(&lab, "web", &files);
    let (text, code) =
        web.shell("cat /etc/vnetd-test/deep/nva.nft /etc/hosts /run/vnetd-test; vnetd-test-script")?;
    assert_eq!((text.as_str(), code), ("table inet t {}10.0.0.1 ownhereran\n", 0));
    assert_eq!(web.shell("test -s /etc/passwd && echo ok")?.0, "ok\n", "what the host has is seen too");
    assert_eq!(web.shell("echo new > /etc/vnetd-test/written && cat /etc/vnetd-test/written")?.0, "new\n");
    assert_eq!(web.shell("echo new >> /etc/passwd; tail -1 /etc/passwd")?.0, "new\n");
    for path in ["/etc/vnetd-test", "/usr/local/bin/vnetd-test-script", "/run/vnetd-test"] {
        assert!(!Path::new(path).exists(), "{path} on the host");
    }
    assert!(!fs::read_to_string("/etc/passwd")?.ends_with("new\n"));
    Ok(())
}

fn run_and_tmp_apart() -> Outcome {
    let lab = Lab::new();
    let (web, db) = (Machine::new(&lab, "web", &[]), Machine::new(&lab, "db", &[]));
    web.shell("echo web > /run/bird.ctl; echo web > /tmp/vnetd-test")?;
    assert_eq!(
        web.shell("cat /run/bird.ctl /tmp/vnetd-test")?.0,
        "web\nweb\n",
        "the next program of the machine sees it"
    );
    assert_eq!(db.shell("cat /run/bird.ctl /tmp/vnetd-test")?, (String::new(), 1));
    assert!(!Path::new("/run/bird.ctl").exists() && !Path::new("/tmp/vnetd-test").exists());
    Ok(())
}

fn exit_codes() -> Outcome {
    let lab = Lab::new();
    let web = Machine::new(&lab, "web", &[]);
    assert_eq!(web.shell("exit 7")?.1, 7);
    assert_eq!(web.shell("kill -KILL $$")?.1, 137);
    let mut child = web.spawn(&["sleep", "60"], no_stdio()?, false)?;
    assert_eq!(child.try_wait()?, None);
    child.signal_group(libc::SIGTERM)?;
    assert_eq!(child.wait()?, 143);
    assert!(child.signal_group(12345).is_err());
    Ok(())
}

fn not_there() -> Outcome {
    let lab = Lab::new();
    let web = Machine::new(&lab, "web", &[]);
    let fails = |argv: &[&str]| web.spawn(argv, no_stdio().unwrap(), false).unwrap_err();
    let error = fails(&["no-such-program", "x"]);
    assert_eq!(error.code, 127);
    assert!(error.message.contains("no-such-program"), "{error}");
    assert_eq!(fails(&["/etc/passwd"]).code, 126);
    let not_a_terminal = web.spawn(&["true"], no_stdio()?, true).unwrap_err();
    assert_eq!(not_a_terminal.code, 125);
    Ok(())
}

fn terminal() -> Outcome {
    let lab = Lab::new();
    let web = Machine::new(&lab, "web", &[]);
    let pty = nix::pty::openpty(None, None)?;
    let stdio = [pty.slave.try_clone()?, pty.slave.try_clone()?, pty.slave];
    let line = "test \"$(tty)\" != '' && echo here > /dev/tty";
    let mut child = web.spawn(&["sh", "-c", line], stdio, true)?;
    assert_eq!(child.wait()?, 0);
    let mut buffer = [0; 64];
    let len = nix::unistd::read(&pty.master, &mut buffer)?;
    assert_eq!(&buffer[..len], b"here\r\n");
    Ok(())
}

fn every_process_ends() -> Outcome {
    let lab = Lab::new();
    let (web, db) = (Machine::new(&lab, "web", &[]), Machine::new(&lab, "db", &[]));
    let stubborn = "trap '' TERM; (trap '' TERM; setsid sleep 300 & sleep 300) & while :; do sleep 1; done";
    let mut child = web.spawn(&["sh", "-c", stubborn], no_stdio()?, false)?;
    let mut other = db.spawn(&["sleep", "300"], no_stdio()?, false)?;
    let namespaces = HashSet::from([web.ns.id()?]);
    let deadline = Instant::now() + Duration::from_secs(5);
    while process::find_in(&namespaces)?.len() < 3 {
        assert!(Instant::now() < deadline, "the shell's children did not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = process::kill_all_in(&namespaces, Duration::from_millis(200), Duration::from_secs(5))?;
    assert!(ended >= 3, "{ended}");
    assert_eq!(process::find_in(&namespaces)?, Vec::<u32>::new());
    assert_eq!(child.wait()?, 137);
    assert_eq!(other.try_wait()?, None, "another machine's process lives on");
    assert_eq!(
        process::kill_all_in(&HashSet::from([db.ns.id()?]), Duration::from_secs(1), Duration::from_secs(5))?,
        1
    );
    assert_eq!(other.wait()?, 143, "who listens is asked");
    Ok(())
}

fn logged() -> Outcome {
    let lab = Lab::new();
    let web = Machine::new(&lab, "web", &[]);
    let log = lab.dir.path().join("logs/web.log");
    for line in ["echo out; echo err >&2", "echo again; cat"] {
        let argv = ["sh", "-c", line].map(str::to_owned).to_vec();
        let mut child = launcher().spawn_logged(&web.ns, &web.backing, "web", argv, &log)?;
        assert_eq!(child.wait()?, 0);
    }
    assert_eq!(fs::read_to_string(&log)?, "out\nerr\nagain\n");
    Ok(())
}

fn supervised() -> Outcome {
    let lab = Lab::new();
    let web = Machine::new(&lab, "web", &[]);
    let log = lab.dir.path().join("web.log");
    let start = |line: &str, restart, adopt| {
        let spec = RunSpec {
            ns: web.ns.try_clone().unwrap(),
            backing: web.backing.clone(),
            hostname: "web".into(),
            argv: ["sh", "-c", line].map(str::to_owned).to_vec(),
            log: log.clone(),
            restart,
            adopt,
        };
        Supervised::start(launcher(), spec, |_| {}).unwrap()
    };
    let until = |program: &Supervised, wanted: &dyn Fn(&RunState) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let state = program.state();
            if wanted(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "{state:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let once = start("echo once; exit 3", false, None);
    until(&once, &|state| *state == RunState::Exited(Some(3)));
    drop(once);
    assert_eq!(fs::read_to_string(&log)?, "once\n");

    let always = start("sleep 300", true, None);
    let running = |state: &RunState| matches!(state, RunState::Running(_));
    let RunState::Running(first) = until(&always, &running) else { unreachable!("it runs") };
    process::PidFd::open(first.pid)?.signal(libc::SIGKILL)?;
    until(&always, &|state| *state == RunState::Exited(Some(137)));
    let RunState::Running(second) = until(&always, &running) else { unreachable!("it runs") };
    assert_ne!(first, second);
    // The daemon goes and the next one comes.
    drop(always);
    let next = start("sleep 300", true, Some(second));
    assert_eq!(until(&next, &running), RunState::Running(second));
    drop(next);
    process::PidFd::open(second.pid)?.signal(libc::SIGKILL)?;
    let missing = start("", false, Some(first));
    until(&missing, &|state| *state == RunState::Exited(Some(0)));
    Ok(())
}

fn mounts_do_not_leak() -> Outcome {
    let lab = Lab::new();
    let web = Machine::new(&lab, "web", &[]);
    let ours = || -> BTreeMap<String, usize> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned());
        points.filter(|point| !point.starts_with("/run/netns")).fold(BTreeMap::new(), |mut counts, point| {
            *counts.entry(point).or_default() += 1;
            counts
        })
    };
    let before = ours();
    let mut child = web.spawn(&["sh", "-c", "mount -t tmpfs x /mnt; exec sleep 300"], no_stdio()?, false)?;
    assert_eq!(ours(), before);
    child.signal_group(libc::SIGKILL)?;
    child.wait()?;
    Ok(())
}
