//! Networks for the engine: from a file, or as this host has it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use machine::NetConfig;

/// Reads a description of devices, routes, neighbours and sockets: TOML if the file is called so, else JSON.
///
/// # Errors
///
/// A file that cannot be read or is no such description.
pub fn net_from_file(path: &Path) -> Result<NetConfig> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| shown.clone())?;
    if path.extension().is_some_and(|e| e == "toml") {
        return toml::from_str(&text).context(shown);
    }
    serde_json::from_str(&text).context(shown)
}

/// Reads devices, routes and neighbours of this host (of the network namespace of this process) with
/// iproute2's `ip`, and what `/proc/sys` says about forwarding.
///
/// # Errors
///
/// `ip` that is missing or fails.
pub fn net_from_host() -> Result<NetConfig> {
    let links = ip(&["-d", "link"])?;
    let routes =
        ip(&["-4", "route", "show", "table", "all"])? + &ip(&["-6", "route", "show", "table", "all"])?;
    let mut net = NetConfig::from_ip_json(&links, &ip(&["addr"])?, &routes, &ip(&["neigh"])?)?;
    for device in &mut net.devices {
        device.forwarding = sysctl(&format!("ipv4/conf/{}/forwarding", device.name)) == Some(1);
        device.forwarding6 = sysctl(&format!("ipv6/conf/{}/forwarding", device.name)) == Some(1);
        device.rx_queues = queues(&device.name).unwrap_or(device.rx_queues);
    }
    if let Some(syncookies) = sysctl("ipv4/tcp_syncookies") {
        net.sysctl.tcp_syncookies = syncookies;
    }
    Ok(net)
}

fn ip(args: &[&str]) -> Result<String> {
    let command = || format!("ip -json {}", args.join(" "));
    let output = Command::new("ip").arg("-json").args(args).output();
    let output = output.with_context(|| format!("{}: is iproute2 installed?", command()))?;
    if !output.status.success() {
        bail!("{}: {}", command(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8(output.stdout).with_context(command)?;
    Ok(if text.trim().is_empty() { "[]".to_owned() } else { text })
}

fn sysctl(name: &str) -> Option<u8> {
    std::fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?.trim().parse().ok()
}

fn queues(device: &str) -> Option<u32> {
    let entries = std::fs::read_dir(format!("/sys/class/net/{device}/queues")).ok()?;
    let receive =
        entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|n| n.starts_with("rx-"));
    u32::try_from(receive.count()).ok().filter(|n| *n > 0)
}
