//! Sweeps: what is ours goes, what is not stays.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use vnet_api::CheckStatus;
use vnetd::host::netns;
use vnetd::host::state_dir::StateDir;
use vnetd::host::{HostError, doctor, sweep};

use crate::lab::{Lab, launcher};
use crate::{Case, Outcome};

pub(crate) fn tests() -> Vec<Case> {
    vec![
        ("a_lab_is_removed_and_nothing_else", removed_and_nothing_else),
        ("strays_beside_a_lab_are_removed", strays),
        ("a_hundred_machines_are_cheap", cheap),
        ("the_doctor_finds_this_host_fit", doctor_finds_this_host_fit),
    ]
}

fn removed_and_nothing_else() -> Outcome {
    let (ours, other) = (Lab::new(), Lab::new());
    let root = ours.dir.path().join("state");
    let (ns, _tun) = ours.machine("web", &["10.1.0.4/24"])?;
    fs::write(ours.ns_name("crashed").path(), "")?;
    let _other_machine = other.machine("web", &["10.1.0.4/24"])?;
    let foreign = Path::new(netns::NETNS_DIR).join(format!("foreign-{}", ours.name));
    fs::write(&foreign, "")?;
    let state = StateDir::open(&root, &ours.name)?;
    let backing = ours.backing("web", &[]);
    let argv = vec!["sleep".to_owned(), "300".to_owned()];
    let mut child = launcher().spawn_logged(&ns, &backing, "web", argv, &state.log("web"))?;

    let found = sweep::find(&root)?;
    assert_eq!((found[&ours.name].namespaces.len(), found[&ours.name].state), (2, true));
    assert!(!found[&other.name].state);
    let swept = sweep::remove_lab(&ours.name, state)?;
    assert_eq!(swept, sweep::Swept { processes: 1, namespaces: 2, states: 1 });
    assert_eq!(child.wait()?, 143);
    assert!(!sweep::find(&root)?.contains_key(&ours.name));
    assert_eq!(fs::read_dir(&root)?.count(), 0);
    assert_eq!(netns::list(Some(&other.name))?.len(), 1, "another lab stays");
    assert!(foreign.exists(), "what is not ours stays");
    fs::remove_file(foreign)?;
    assert_eq!(sweep::remove_namespaces(&ours.name)?, sweep::Swept::default());
    Ok(())
}

fn strays() -> Outcome {
    let lab = Lab::new();
    let _machines = [lab.namespace("web"), lab.namespace("db"), lab.namespace("gone")];
    let keep = BTreeSet::from(["web".to_owned(), "db".to_owned()]);
    assert_eq!(sweep::remove_strays(&lab.name, &keep)?.namespaces, 1);
    let left: Vec<_> = netns::list(Some(&lab.name))?.iter().map(|name| name.vm().to_owned()).collect();
    assert_eq!(left, ["db", "web"]);
    let root = lab.dir.path().join("state");
    let held = StateDir::open(&root, &lab.name)?;
    assert!(matches!(StateDir::open(&root, &lab.name), Err(HostError::Busy { .. })));
    drop(held);
    Ok(())
}

/// A thousand machines may take a few seconds: 100 of them are held to a tenth of that, with room for a busy machine.
fn cheap() -> Outcome {
    let lab = Lab::new();
    let start = Instant::now();
    let machines = (0..100)
        .map(|n| lab.machine(&format!("vm{n}"), &["10.1.0.4/24", "fd00::4/64"]))
        .collect::<vnetd::host::Result<Vec<_>>>()?;
    let made = start.elapsed();
    let start = Instant::now();
    let swept = sweep::remove_namespaces(&lab.name)?;
    drop(machines);
    let removed = start.elapsed();
    println!("100 machines: made in {made:?}, removed in {removed:?}");
    assert_eq!(swept.namespaces, 100);
    assert!(made < Duration::from_secs(2) && removed < Duration::from_secs(1), "{made:?} {removed:?}");
    Ok(())
}

fn doctor_finds_this_host_fit() -> Outcome {
    let lab = Lab::new();
    let metrics: SocketAddr = "127.0.0.1:0".parse()?;
    netns::prepare_dir()?;
    let report = doctor::examine(lab.dir.path(), Some(metrics));
    assert!(report.can_run(), "{report:#?}");
    assert_eq!(report.checks.len(), 11);
    for check in &report.checks {
        assert_eq!(check.remedy.is_some(), check.status != CheckStatus::Ok, "{check:?}");
    }
    let offload =
        report.checks.iter().find(|check| check.name == "offload").ok_or("no word of the offload")?;
    let expected = if vnetd::offload::is_built() { CheckStatus::Ok } else { CheckStatus::Warning };
    assert_eq!(offload.status, expected, "{offload:?}");
    assert!(netns::list(Some("doctor"))?.iter().all(|name| name.vm() != std::process::id().to_string()));
    Ok(())
}
