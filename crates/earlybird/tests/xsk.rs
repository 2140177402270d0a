//! `earlybird xsk` over a pair of veth devices in a network namespace of its own.

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use earlybird::capture::Reader;
use linux::needs_kernel;
use linux::testing::{VethPair, command};
use serde_json::Value;

fn earlybird(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_earlybird"));
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(args: &[&str]) -> Output {
    earlybird(args).output().unwrap()
}

/// Started, and given time to attach.
fn started(args: &[&str]) -> Child {
    let child = earlybird(args).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    child
}

fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"))
}

/// Runs `test` in a namespace with devices `veth0` and `veth1`.
fn on_veth(test: impl FnOnce() + Send) {
    let pair = VethPair::new().unwrap();
    let quiet = || command("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]).unwrap();
    pair.netns
        .run(|| {
            quiet();
            test();
        })
        .unwrap();
}

#[test]
fn kernel_drop_counts_what_tx_sends() {
    needs_kernel!();
    on_veth(|| {
        let drop = started(&["xsk", "drop", "veth0", "-c", "5000", "-d", "20", "--json"]);
        let sent = json(&output(&["xsk", "tx", "veth1", "-c", "10000", "-d", "20", "-s", "100", "--json"]));
        let got = json(&drop.wait_with_output().unwrap());
        let number = |v: &Value, key: &str| v[key].as_u64().unwrap_or_else(|| panic!("{key} in {v}"));
        assert!(number(&sent, "tx_packets") >= 10_000 && number(&sent, "tx_invalid_descs") == 0);
        assert!(number(&got, "rx_packets") >= 5000);
        assert_eq!(number(&got, "rx_bytes"), 100 * number(&got, "rx_packets"));
        let gone = command("ip", &["-details", "link", "show", "veth0"]).unwrap();
        assert!(!gone.contains("prog/xdp"), "the program went with the command: {gone}");
    });
}

#[test]
fn kernel_l2fwd_sends_back_and_dump_records_it() {
    needs_kernel!();
    on_veth(|| {
        let path = std::env::temp_dir().join(format!("earlybird-xsk-{}.pcapng", std::process::id()));
        let file = path.to_str().unwrap();
        let mut forward = started(&["xsk", "l2fwd", "veth0", "-d", "30", "--spin"]);
        let dump = started(&["xsk", "dump", "veth1", "-c", "20", "-d", "20", "-w", file, "--json"]);
        // Not with the queue that the dump has: as a ping would come.
        let wire = linux::sys::PacketSocket::new().unwrap();
        let veth1 = linux::sys::if_index("veth1").unwrap();
        let mut packet = vec![7; 80];
        packet[..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        for i in 0..20 {
            packet[14] = i;
            wire.send(veth1, &packet).unwrap();
        }
        let got = json(&dump.wait_with_output().unwrap());
        forward.kill().unwrap();
        forward.wait().unwrap();
        assert_eq!(got["rx_packets"], 20, "{got}");
        let recorded: Vec<_> = Reader::open(&path).unwrap().map(|p| p.unwrap().data).collect();
        std::fs::remove_file(&path).unwrap();
        packet[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9]);
        for (i, data) in recorded.iter().enumerate() {
            packet[14] = i as u8;
            assert_eq!(data, &packet);
        }
        assert_eq!(recorded.len(), 20);
    });
}

#[test]
fn kernel_refusals_are_one_clear_line() {
    needs_kernel!();
    on_veth(|| {
        let refused = |args: &[&str], expected: &str| {
            let output = output(args);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert!(stderr.lines().count() == 1 && stderr.contains(expected), "{args:?}: {stderr}");
        };
        refused(&["xsk", "drop", "nosuch0"], "nosuch0: no such device");
        refused(&["xsk", "drop", "veth0", "-q", "77"], "binding to the queue: EINVAL");
        refused(&["xsk", "tx", "veth0", "--zero-copy"], "the driver has no zero-copy");
        refused(&["xsk", "tx", "veth0", "--ring", "100"], "power of two");
        refused(&["xsk", "tx", "veth0", "--frame-size", "9000"], "chunks are 2048 to 4096 bytes");
    });
}
