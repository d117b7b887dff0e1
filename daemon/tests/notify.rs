//! What the service manager receives. The test runs itself again as the daemon's half.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

const CHILD: &str = "VNETD_TEST_NOTIFY_CHILD";

/// The half that runs in a process of its own, with the environment that a service manager would set.
fn child() {
    vnetd::notify::ready("2 labs");
    vnetd::notify::status("3 labs");
    vnetd::notify::reloading();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts");
    runtime.block_on(async {
        let fed = vnetd::notify::watchdog(|| true);
        assert!(
            tokio::time::timeout(Duration::from_millis(150), fed).await.is_err(),
            "the watchdog never ends"
        );
        let starved = vnetd::notify::watchdog(|| false);
        assert!(tokio::time::timeout(Duration::from_millis(150), starved).await.is_err());
    });
    vnetd::notify::stopping();
}

#[test]
fn messages_reach_the_service_manager() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket to be notified on");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout can be set");
    let status = Command::new(std::env::current_exe().expect("the test knows itself"))
        .args(["--exact", "messages_reach_the_service_manager"])
        .env(CHILD, "1")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "100000")
        .env_remove("WATCHDOG_PID")
        .status()
        .expect("the child starts");
    assert!(status.success());

    let receive = || {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).expect("a message is there");
        String::from_utf8(buffer[..length].to_vec()).expect("messages are text")
    };
    assert_eq!(receive(), "READY=1\nSTATUS=2 labs\n");
    assert_eq!(receive(), "STATUS=3 labs\n");
    assert!(receive().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    // At 0, 50 and 100 ms, perhaps one more; none while the answer is no.
    let mut beats = 0;
    let last = loop {
        match receive() {
            message if message == "WATCHDOG=1\n" => beats += 1,
            message => break message,
        }
    };
    assert!((2..=4).contains(&beats), "{beats} beats");
    assert_eq!(last, "STOPPING=1\n");
}
