//! Fact 4, mostly as `oracle/t_redir.py` observed it on the running kernel.

use std::sync::Arc;

use bpf::Insn;
use bpf::maps::Map;
use bpf::object::AttachType;
use uapi::bpf::MapType;

use crate::drivers::loopback::Loopback;
use crate::testing::*;
use crate::{AttachFlags, LiveStats, NetDevice, Tracepoint};

const DROP: i32 = 1;
const PASS: i32 = 2;
const REDIRECT: i32 = 4;

/// Four pairs, 11-12 to 41-42; the second of each drops in native mode. Live frames come in on 11.
fn pairs() -> World {
    let mut w = World::new();
    for i in 1..=4 {
        w.veth(10 * i + 1, 10 * i + 2);
        w.answer(10 * i + 2, DROP);
    }
    w
}

fn devmap(w: &World, entries: &[(u32, u32)]) -> Arc<Map> {
    let map = map(MapType::Devmap, 8, 8, 7);
    entries.iter().for_each(|(key, ifindex)| w.entry(&map, *key, *ifindex, None));
    map
}

/// Fact 4.4 [V]: 40 frames leave as 16, 16 and 8, the redirects are counted as successes at once.
#[test]
fn a_device_queue_holds_sixteen_frames() {
    let mut w = pairs();
    let map = devmap(&w, &[(0, 21)]);
    let program = w.xdp(&redirect_map(0, 0), &[map]);
    let claims = [
        ("v22.rx_queue_0_xdp_packets", 40),
        ("v22.rx_queue_0_xdp_bytes", 40 * 60),
        ("v22.rx_queue_0_xdp_drops", 40),
        ("v21.tx_queue_0_xdp_xmit", 40),
        ("v22.link.rx_packets", 40),
        ("v21.link.tx_packets", 40),
        ("drop.program-drop", 40),
    ];
    let stats = w.ledger(&claims, |w| w.live(&program, 11, 40, 60));
    assert_eq!(stats, LiveStats { redirected: 40, ..LiveStats::default() });
    let events = w.events();
    let sent: Vec<_> = events.iter().filter(|e| e.tracepoint() == Tracepoint::XdpDevmapXmit).collect();
    let line = |sent| {
        format!(
            "xdp_devmap_xmit: ndo_xdp_xmit from_ifindex=11 to_ifindex=21 action=REDIRECT sent={sent} drops=0 \
             err=0"
        )
    };
    assert_eq!(sent.iter().map(|e| e.to_string()).collect::<Vec<_>>(), [line(16), line(16), line(8)]);
    let redirects = events.iter().filter(|e| e.tracepoint() == Tracepoint::XdpRedirect);
    let line = format!(
        "xdp_redirect: prog_id={} action=REDIRECT ifindex=11 to_ifindex=21 err=0 map_id=7 map_index=0",
        program.id()
    );
    assert_eq!(redirects.map(|e| e.to_string()).collect::<Vec<_>>(), vec![line; 40]);
}

/// A program that answers differently for the first packet, the second, and so on: `odd` from the second.
fn first_then(first: &[Insn], odd: &[Insn], counter: i32) -> Vec<Insn> {
    let head = [
        &[mov_reg(6, 1)][..],
        &ld_value(8, counter),
        &[
            Insn::new(0x79, 7, 8, 0, 0),
            mov_reg(1, 7),
            Insn::new(0x07, 1, 0, 0, 1),
            Insn::new(0x7b, 8, 1, 0, 0),
            Insn::new(0x55, 7, 0, first.len() as i16, 0),
        ],
    ]
    .concat();
    [&head, first, odd].concat()
}

fn counter() -> Arc<Map> {
    map(MapType::Array, 8, 1, 50)
}

/// Fact 4.2 (a) [V]: a packet that is dropped after a helper call leaves its target to the next one.
#[test]
fn a_bare_redirect_follows_the_last_packets_helper() {
    let mut w = pairs();
    let helper_then_drop = [mov(1, 31), mov(2, 0), call(23), mov(0, DROP), exit()];
    let bare = answer(REDIRECT);
    let program = w.xdp(&first_then(&helper_then_drop, &bare, 0), &[counter()]);
    let claims = [
        ("v32.rx_queue_0_xdp_packets", 1),
        ("v32.rx_queue_0_xdp_bytes", 60),
        ("v32.rx_queue_0_xdp_drops", 1),
        ("v31.tx_queue_0_xdp_xmit", 1),
        ("v32.link.rx_packets", 1),
        ("v31.link.tx_packets", 1),
        ("drop.program-drop", 2),
    ];
    let stats = w.ledger(&claims, |w| w.live(&program, 11, 2, 60));
    assert_eq!(stats, LiveStats { redirected: 1, dropped: 1, passed: 0 });
}

/// Fact 4.2 (b) [V]: a miss keeps the index of the packet before, here none; or that of an earlier helper.
#[test]
fn a_missed_map_entry_and_a_redirect_go_to_a_stale_index() {
    let mut w = pairs();
    let map = devmap(&w, &[(0, 21)]);
    let miss = [&ld_map(1, 0)[..], &[mov(2, 7), mov(3, 0), call(51), mov(0, REDIRECT), exit()]].concat();
    let program = w.xdp(&miss, std::slice::from_ref(&map));
    w.ledger(&[("drop.redirect-no-device", 1)], |w| w.live(&program, 11, 1, 60));
    let line = format!(
        "prog_id={} action=REDIRECT ifindex=11 to_ifindex=0 err=-22 map_id=2147483647 map_index=0",
        program.id()
    );
    assert_eq!(w.lines(Tracepoint::XdpRedirectErr), [line]);

    let both = [&[mov(1, 31), mov(2, 0), call(23)][..], &miss].concat();
    let program = w.xdp(&both, &[map]);
    assert_eq!(w.live(&program, 11, 1, 60).redirected, 1);
    assert!(w.lines(Tracepoint::XdpRedirect)[0].contains("to_ifindex=31 err=0 map_id=2147483647"));
}

/// Fact 4.2 (c) [V]: a bare redirect on fresh state, and the state is fresh for each batch.
#[test]
fn a_redirect_without_any_helper_has_no_target() {
    let mut w = pairs();
    let program = w.xdp(&answer(REDIRECT), &[]);
    w.ledger(&[("drop.redirect-no-target", 1)], |w| w.live(&program, 11, 1, 60));
    assert!(w.lines(Tracepoint::XdpRedirectErr)[0].ends_with("to_ifindex=0 err=-56 map_id=0 map_index=0"));
}

/// Fact 4.2: a consumed map target does not serve a second packet.
#[test]
fn map_and_flags_are_used_up_by_one_packet() {
    let mut w = pairs();
    let map = devmap(&w, &[(0, 21)]);
    let program = w.xdp(&first_then(&redirect_map(0, 0), &answer(REDIRECT), 1), &[map, counter()]);
    let stats = w.live(&program, 11, 2, 60);
    assert_eq!(stats, LiveStats { redirected: 1, dropped: 1, passed: 0 });
    assert!(w.lines(Tracepoint::XdpRedirectErr)[0].contains("err=-56"));
}

/// Fact 4.2 (d) [V].
#[test]
fn the_last_helper_call_wins() {
    let mut w = pairs();
    let map = devmap(&w, &[(0, 21)]);
    let insns = [&[mov(1, 31), mov(2, 0), call(23)][..], &redirect_map(0, 0)].concat();
    let program = w.xdp(&insns, &[map]);
    w.live(&program, 11, 1, 60);
    assert!(w.lines(Tracepoint::XdpRedirect)[0].contains("to_ifindex=21 err=0 map_id=7 map_index=0"));
}

/// Fact 4.3 [V]: features, up, length, in this order; and the device must be in the ingress's namespace.
#[test]
fn what_a_device_cannot_take_is_refused_at_once() {
    let mut w = pairs();
    let (plain, _) = w.veth(51, 52);
    w.devices.register(Loopback::new(1, 0)).unwrap();
    let target = w.devices.find(21).unwrap();
    let case = |w: &mut World, ifindex, len, reason: &str, err: i32| {
        let program = w.xdp(&redirect(ifindex, 0), &[]);
        w.events();
        w.ledger(&[(format!("drop.{reason}").as_str(), 1)], |w| w.live(&program, 11, 1, len));
        let wanted = format!("to_ifindex={ifindex} err={err} map_id=2147483647 map_index=0");
        let lines = w.lines(Tracepoint::XdpRedirectErr);
        assert!(lines[0].ends_with(&wanted), "{lines:?}");
    };
    case(&mut w, 999, 60, "redirect-no-device", -22);
    case(&mut w, 1, 60, "redirect-not-supported", -95);
    plain.set_up(false).unwrap();
    case(&mut w, 51, 60, "redirect-not-supported", -95);
    target.core().set_mtu(100).unwrap();
    case(&mut w, 21, 119, "redirect-too-long", -90);
    target.set_up(false).unwrap();
    case(&mut w, 21, 119, "redirect-device-down", -100);
    target.set_up(true).unwrap();
    let program = w.xdp(&redirect(21, 0), &[]);
    assert_eq!(w.live(&program, 11, 1, 118).redirected, 1);
}

/// Fact 4.3: a device of another namespace is not found by its number, but a devmap entry reaches it.
#[test]
fn a_number_names_a_device_of_the_same_namespace() {
    let mut w = pairs();
    w.veth_with(61, 62, |config| config.netns = 1);
    w.answer(62, DROP);
    let program = w.xdp(&redirect(61, 0), &[]);
    w.ledger(&[("drop.redirect-no-device", 1)], |w| w.live(&program, 11, 1, 60));
    let map = devmap(&w, &[(0, 61)]);
    let program = w.xdp(&redirect_map(0, 0), &[map]);
    assert_eq!(w.live(&program, 11, 1, 60).redirected, 1);
}

/// Fact 4.5 [V]: the device touched last is sent first.
#[test]
fn queues_are_flushed_from_the_last_to_the_first() {
    let mut w = pairs();
    let map = devmap(&w, &[(0, 21), (1, 31)]);
    let insns = first_then(&redirect_map(0, 0), &redirect_map(1, 0), 1);
    let program = w.xdp(&insns, &[map, counter()]);
    w.live(&program, 11, 4, 60);
    let lines = w.lines(Tracepoint::XdpDevmapXmit);
    assert!(lines[0].contains("to_ifindex=31 action=REDIRECT sent=3"), "{lines:?}");
    assert!(lines[1].contains("to_ifindex=21 action=REDIRECT sent=1"), "{lines:?}");
}

/// What an egress program leaves in array 0: egress and ingress device, queue, and how often it ran.
fn egress(act: i32) -> Vec<Insn> {
    let ldx = |dst, off| Insn::new(0x61, dst, 1, off, 0);
    let stx = |off| Insn::new(0x7b, 8, 2, off, 0);
    let count = [Insn::new(0x79, 2, 8, 24, 0), Insn::new(0x07, 2, 0, 0, 1), stx(24)];
    [
        &ld_value(8, 0)[..],
        &[ldx(2, 20), stx(0), ldx(2, 12), stx(8), ldx(2, 16), stx(16)],
        &count,
        &answer(act),
    ]
    .concat()
}

fn quads(map: &Arc<Map>) -> Vec<u64> {
    let bytes = map.open().lookup_elem(&0_u32.to_le_bytes(), 0).unwrap();
    bytes.chunks(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Fact 4.6 [V]: what the program of an entry sees and what its answers do.
#[test]
fn an_egress_program_passes_or_drops() {
    for (act, kept, exception, reason) in [
        (2, true, None, ""),
        (1, false, None, "egress-drop"),
        (0, false, Some("ABORTED"), "egress-aborted"),
        (3, false, Some("TX"), "egress-invalid-action"),
        (4, false, Some("REDIRECT"), "egress-invalid-action"),
        (77, false, Some("0x4d"), "egress-invalid-action"),
    ] {
        let mut w = pairs();
        let seen = map(MapType::Array, 32, 1, 51);
        let egress = w.program(&egress(act), std::slice::from_ref(&seen), AttachType::Devmap, false);
        let map = devmap(&w, &[]);
        w.entry(&map, 0, 21, Some(&egress));
        let program = w.xdp(&redirect_map(0, 0), &[map]);
        assert_eq!(w.live(&program, 11, 3, 60).redirected, 3);
        assert_eq!(quads(&seen), [21, 11, 0, 3]);
        let events = w.events();
        let lines =
            |t| events.iter().filter(|e| e.tracepoint() == t).map(|e| e.to_string()).collect::<Vec<_>>();
        let (sent, drops) = if kept { (3, 0) } else { (0, 3) };
        let wanted = format!("sent={sent} drops={drops} err=0");
        assert!(lines(Tracepoint::XdpDevmapXmit)[0].ends_with(&wanted));
        let exceptions = exception.map_or(vec![], |act| {
            vec![format!("xdp_exception: prog_id={} action={act} ifindex=21", egress.id()); 3]
        });
        assert_eq!(lines(Tracepoint::XdpException), exceptions);
        assert_eq!(w.counters().get(&format!("drop.{reason}")).copied(), (!kept).then_some(3));
        w.check_frames();
    }
}

/// Fact 4.4 [V]: in one poll the program of a device's first frame runs for all its frames.
#[test]
fn the_first_frames_egress_program_runs_for_all() {
    let mut w = pairs();
    let drop = w.program(&answer(DROP), &[], AttachType::Devmap, false);
    let map = devmap(&w, &[(1, 21)]);
    w.entry(&map, 0, 21, Some(&drop));
    let program = w.xdp(&first_then(&redirect_map(0, 0), &redirect_map(1, 0), 1), &[map, counter()]);
    w.ledger(&[("drop.egress-drop", 8)], |w| w.live(&program, 11, 8, 60));
    assert!(w.lines(Tracepoint::XdpDevmapXmit)[0].ends_with("sent=0 drops=8 err=0"));
}

/// Fact 4.7 [V]: copies for all but the last, in the order of keys; the key itself means nothing.
#[test]
fn broadcast_copies_for_all_but_the_last() {
    let mut w = pairs();
    let map = devmap(&w, &[(1, 21), (2, 31), (3, 41), (4, 11)]);
    let program = w.xdp(&redirect_map(0, 8), std::slice::from_ref(&map));
    w.live(&program, 11, 2, 60);
    let lines = w.lines(Tracepoint::XdpDevmapXmit);
    let to = |line: &String| line.split_once("to_ifindex=").unwrap().1[..2].to_owned();
    assert_eq!(lines.iter().map(to).collect::<Vec<_>>(), ["11", "41", "31", "21"]);
    assert!(lines.iter().all(|l| l.contains("sent=2 drops=0")), "{lines:?}");
    w.check_frames();

    let program = w.xdp(&redirect_map(99, 24), &[map]);
    w.live(&program, 11, 1, 60);
    let events = w.events();
    let redirect = events.iter().find(|e| e.tracepoint() == Tracepoint::XdpRedirect).unwrap();
    assert!(redirect.to_string().ends_with("to_ifindex=0 err=0 map_id=7 map_index=99"));
    let sent: Vec<_> = events.iter().filter(|e| e.tracepoint() == Tracepoint::XdpDevmapXmit).collect();
    assert_eq!(sent.len(), 3, "not to the ingress: {sent:?}");
}

/// Fact 1.13 [V]: copies are of a page, the last receiver has the original.
#[test]
fn copies_have_a_page_and_the_original_keeps_its_size() {
    let mut w = World::new();
    let mut seen = Vec::new();
    for i in 1..=3 {
        let (_, receiver) = w.veth(10 * i + 1, 10 * i + 2);
        // The size of the frame shows in how far the packet can grow.
        let grown = map(MapType::Array, 8, 1, 60 + i);
        let grow = |w: &mut World| w.xdp(&grow_to_the_end(), std::slice::from_ref(&grown));
        let program = grow(&mut w);
        w.attach(receiver.core().ifindex, &program, AttachFlags::DRV_MODE).unwrap();
        seen.push(grown);
    }
    let map = devmap(&w, &[(1, 11), (2, 21), (3, 31)]);
    let program = w.xdp(&redirect_map(0, 8), &[map]);
    w.live(&program, 11, 1, 60);
    // Room after 256 bytes of headroom and 60 of packet, before the reserved 320.
    let room = |frame_sz: u64| frame_sz - 256 - 60 - 320;
    let rooms: Vec<_> = seen.iter().map(|map| quads(map)[0]).collect();
    assert_eq!(rooms, [room(4096), room(4096), room(3984)]);
}

/// Grows the packet by every power of two that fits, and writes the sum into array 0; drops.
fn grow_to_the_end() -> Vec<Insn> {
    let mut insns = [&[mov_reg(6, 1)][..], &ld_value(8, 0), &[mov(9, 0)]].concat();
    for shift in (0..12).rev() {
        insns.extend([mov_reg(1, 6), mov(2, 1 << shift), call(65)]);
        insns.extend([Insn::new(0x55, 0, 0, 1, 0), Insn::new(0x07, 9, 0, 0, 1 << shift)]);
    }
    insns.extend([Insn::new(0x7b, 8, 9, 0, 0), mov(0, DROP), exit()]);
    insns
}

/// Fact 4.7 [V]: devices that cannot take the packet are skipped, an empty map is a success.
#[test]
fn broadcast_skips_silently() {
    let mut w = pairs();
    let map = devmap(&w, &[(1, 21), (2, 31)]);
    w.devices.find(31).unwrap().set_up(false).unwrap();
    let program = w.xdp(&redirect_map(0, 8), &[map]);
    assert_eq!(w.live(&program, 11, 1, 60).redirected, 1);
    assert_eq!(w.lines(Tracepoint::XdpDevmapXmit).len(), 1);
    let empty = devmap(&w, &[]);
    let program = w.xdp(&redirect_map(0, 8), &[empty]);
    let stats = w.ledger(&[("drop.broadcast-no-receiver", 1)], |w| w.live(&program, 11, 1, 60));
    assert_eq!(stats.redirected, 1);
    assert!(w.lines(Tracepoint::XdpRedirect)[0].ends_with("to_ifindex=0 err=0 map_id=7 map_index=0"));
}

/// Fact 4.7: devices on top of the ingress are excluded with it.
#[test]
fn broadcast_excludes_the_uppers_of_the_ingress() {
    let mut w = pairs();
    w.devices.find(11).unwrap().core().set_upper(21, true);
    let map = devmap(&w, &[(1, 11), (2, 21), (3, 31)]);
    let program = w.xdp(&redirect_map(0, 24), &[map]);
    w.live(&program, 11, 1, 60);
    let lines = w.lines(Tracepoint::XdpDevmapXmit);
    assert!(lines.len() == 1 && lines[0].contains("to_ifindex=31"), "{lines:?}");
}

/// Fact 4.7: a devmap_hash is gone through bucket by bucket, the newest entry of each first.
#[test]
fn broadcast_follows_the_buckets_of_a_hash() {
    let mut w = pairs();
    let hash = map(MapType::DevmapHash, 8, 4, 8);
    for (key, ifindex) in [(1, 21), (5, 31), (0, 41)] {
        w.entry(&hash, key, ifindex, None);
    }
    let program = w.xdp(&redirect_map(0, 8), &[hash]);
    w.live(&program, 11, 1, 60);
    let lines = w.lines(Tracepoint::XdpDevmapXmit);
    let to = |line: &String| line.split_once("to_ifindex=").unwrap().1[..2].to_owned();
    assert_eq!(lines.iter().map(to).collect::<Vec<_>>(), ["21", "31", "41"], "flushed the other way round");
}

/// Fact 4.3, 1.9: less than 40 bytes before packet and metadata.
#[test]
fn a_redirect_without_room_for_a_frame_overflows() {
    let mut w = pairs();
    // Only a packet of the stack in generic memory can have so little headroom: a program cannot take it.
    let data = packet(60);
    let program = w.xdp(&redirect(21, 0), &[]);
    let result = w.cx(|cx| {
        let page = cx.net.pool.take().unwrap();
        let rxq = mem::RxqInfo { ifindex: 11, queue_index: 0, mem_type: 0, frag_size: 0 };
        let packet = mem::Packet::new(page, 4096, 39, 60).map_err(|(e, _)| e).unwrap();
        packet.linear().copy_from(0, &data);
        let mut buff = packet.into_buff(&rxq);
        let act = cx.run_xdp(&program, &mut buff);
        assert_eq!(act, REDIRECT as u32);
        let device = cx.device(11).unwrap().clone();
        cx.xdp_do_redirect(device.core(), buff, program.id())
    });
    assert_eq!(result.unwrap_err().errno, uapi::Errno::EOVERFLOW);
    assert_eq!(w.counters()["drop.redirect-no-frame-room"], 1);
    w.check_frames();
}

/// Fact 4.8 [V]: bulks of 8, a full ring drops at the flush, the thread takes 8 at once.
#[test]
fn a_cpumap_queue_holds_eight_frames() {
    let mut w = pairs();
    let cpus = map(MapType::Cpumap, 8, 4, 9);
    w.entry(&cpus, 2, 192, None);
    let program = w.xdp(&redirect_map(2, 0), &[cpus]);
    assert_eq!(w.live(&program, 11, 20, 60).redirected, 20);
    assert_eq!(w.received().len(), 20);
    let lines: Vec<_> = w.events().iter().map(ToString::to_string).collect();
    let with = |name: &str| lines.iter().filter(|l| l.starts_with(name)).cloned().collect::<Vec<_>>();
    let enqueue = |n| {
        format!("xdp_cpumap_enqueue: enqueue cpu=0 map_id=9 action=REDIRECT processed={n} drops=0 to_cpu=2")
    };
    assert_eq!(with("xdp_cpumap_enqueue"), [enqueue(8), enqueue(8), enqueue(4)]);
    let kthread: Vec<_> = with("xdp_cpumap_kthread");
    assert_eq!(kthread.len(), 3);
    assert!(kthread[2].contains("processed=4 drops=0 sched=0 xdp_pass=0 xdp_drop=0 xdp_redirect=0"));
    w.check_frames();
}

/// Fact 4.8 [V qsize 4: processed=8 drops=4].
#[test]
fn a_full_cpumap_ring_drops_at_the_flush() {
    let mut w = pairs();
    let cpus = map(MapType::Cpumap, 8, 4, 9);
    w.entry(&cpus, 1, 4, None);
    let program = w.xdp(&redirect_map(1, 0), &[cpus]);
    let stats = w.ledger(&[("drop.cpumap-ring-full", 4)], |w| {
        let stats = w.live(&program, 11, 8, 60);
        assert_eq!(w.received().len(), 4);
        stats
    });
    assert_eq!(stats.redirected, 8);
    assert!(w.lines(Tracepoint::XdpCpumapEnqueue)[0].contains("processed=8 drops=4"));
}

/// Fact 4.8 [V]: answers of a cpumap program; XDP_ABORTED says nothing for frames, XDP_TX drops.
#[test]
fn a_cpumap_program_passes_redirects_or_drops() {
    for (act, pass, reason) in
        [(PASS, 3, ""), (DROP, 0, "cpumap-drop"), (0, 0, "cpumap-drop"), (3, 0, "cpumap-drop")]
    {
        let mut w = pairs();
        let seen = map(MapType::Array, 32, 1, 51);
        let insns = egress(act);
        // The egress device is for devmap programs alone.
        let insns: Vec<_> =
            insns.into_iter().map(|i| if i.code == 0x61 && i.off == 20 { mov(2, 0) } else { i }).collect();
        let thread = w.program(&insns, std::slice::from_ref(&seen), AttachType::Cpumap, false);
        let cpus = map(MapType::Cpumap, 8, 4, 9);
        w.entry(&cpus, 1, 64, Some(&thread));
        let program = w.xdp(&redirect_map(1, 0), &[cpus]);
        w.live(&program, 11, 3, 60);
        assert_eq!(quads(&seen), [0, 11, 0, 3]);
        assert_eq!(w.received().len(), pass);
        let line =
            format!("processed=3 drops=0 sched=1 xdp_pass={pass} xdp_drop={} xdp_redirect=0", 3 - pass);
        let events = w.events();
        let of = |t| events.iter().filter(move |e| e.tracepoint() == t);
        assert!(of(Tracepoint::XdpCpumapKthread).next().unwrap().to_string().ends_with(&line));
        assert_eq!(of(Tracepoint::XdpException).count(), 0);
        assert_eq!(w.counters().get(&format!("drop.{reason}")).copied(), (pass == 0).then_some(3));
        w.check_frames();
    }
}

/// Fact 4.8 [V]: a cpumap program can redirect on; the devmap is flushed by the thread.
#[test]
fn a_cpumap_program_redirects_to_a_device() {
    let mut w = pairs();
    let thread = w.program(&redirect(21, 0), &[], AttachType::Cpumap, false);
    let cpus = map(MapType::Cpumap, 8, 4, 9);
    w.entry(&cpus, 1, 64, Some(&thread));
    let program = w.xdp(&redirect_map(1, 0), &[cpus]);
    w.live(&program, 11, 3, 60);
    let lines = w.lines(Tracepoint::XdpDevmapXmit);
    assert!(lines[0].contains("from_ifindex=11 to_ifindex=21 action=REDIRECT sent=3"), "{lines:?}");
    w.check_frames();
}

/// Fact 4.3: sockets are asked with the buff itself; the flush comes once.
#[test]
fn sockets_get_packets_and_one_flush() {
    use super::{XskEntry, XskSocket};
    use std::sync::Mutex;
    use uapi::Errno;

    #[derive(Default)]
    struct Socket(Mutex<Vec<String>>);
    impl XskSocket for Socket {
        fn rcv(&self, buff: &mem::XdpBuff<'_>) -> Result<(), Errno> {
            let mut log = self.0.lock().unwrap();
            log.push(format!("rcv {}", buff.buff_len()));
            if log.len() > 2 { Err(Errno::ENOBUFS) } else { Ok(()) }
        }
        fn flush(&self) {
            self.0.lock().unwrap().push("flush".to_owned());
        }
    }
    struct Fds(bpf::maps::Object);
    impl bpf::maps::Refs for Fds {
        fn socket(&self, _: i32) -> Result<bpf::maps::Object, Errno> {
            Ok(self.0.clone())
        }
    }
    let mut w = pairs();
    let socket = Arc::new(Socket::default());
    let xsks = map(MapType::Xskmap, 4, 4, 5);
    let entry: Arc<dyn XskSocket> = socket.clone();
    let fds = Fds(XskEntry::object(&entry));
    xsks.open().update_with(&fds, &0_u32.to_le_bytes(), &0_u32.to_le_bytes(), 0).unwrap();
    let program = w.xdp(&redirect_map(0, 0), &[xsks]);
    let stats = w.ledger(&[("drop.xsk-refused", 1)], |w| w.live(&program, 11, 3, 60));
    assert_eq!(stats, LiveStats { redirected: 2, dropped: 1, passed: 0 });
    assert_eq!(*socket.0.lock().unwrap(), ["rcv 60", "rcv 60", "rcv 60", "flush"]);
    assert!(w.lines(Tracepoint::XdpRedirectErr)[0].ends_with("to_ifindex=0 err=-105 map_id=5 map_index=0"));
}

/// The engine's AF_XDP sockets behind a redirect: what the application reads is what the program sent.
#[test]
fn packets_reach_the_application_of_an_xsk() {
    use super::XskEntry;
    use uapi::Errno;
    use xsk::{Socket, SocketConfig, Umem, UmemConfig};

    struct Fds(Arc<xsk::engine::XskSocket>);
    impl bpf::maps::Refs for Fds {
        fn socket(&self, _: i32) -> Result<bpf::maps::Object, Errno> {
            let socket: Arc<dyn super::XskSocket> = self.0.clone();
            Ok(XskEntry::object(&socket))
        }
    }
    struct Nic;
    impl xsk::engine::XskDevice for Nic {
        fn is_up(&self) -> bool {
            true
        }
        fn queues(&self) -> (u32, u32) {
            (1, 0)
        }
        fn xmit(&self, _: u16, _: xsk::engine::TxPacket) -> xsk::engine::Xmit {
            unreachable!("it has no queues to send by")
        }
    }
    let mut w = pairs();
    let host = xsk::engine::XskHost::new(|| 0);
    host.register_device(11, Arc::new(Nic));
    let umem = Umem::new(UmemConfig { frames: 8, ..UmemConfig::default() }).unwrap();
    let mut socket = Socket::open(&host, &umem, SocketConfig::new(11, 0)).unwrap();
    assert_eq!(socket.fill.as_mut().unwrap().refill(2), 2);
    let xsks = map(MapType::Xskmap, 4, 4, 5);
    let fds = Fds(host.by_number(socket.number()).unwrap());
    xsks.open().update_with(&fds, &0_u32.to_le_bytes(), &0_u32.to_le_bytes(), 0).unwrap();
    let program = w.xdp(&redirect_map(0, 0), &[xsks]);
    let stats = w.ledger(&[("drop.xsk-refused", 1)], |w| w.live(&program, 11, 3, 60));
    assert_eq!(stats, LiveStats { redirected: 2, dropped: 1, passed: 0 });
    let lengths: Vec<_> = socket.rx.as_mut().unwrap().peek(9).map(|f| f.len()).collect();
    assert_eq!(lengths, [60, 60]);
    let counted = socket.statistics().unwrap();
    assert_eq!((counted.rx_dropped, counted.rx_fill_ring_empty_descs), (1, 1));
    assert!(w.lines(Tracepoint::XdpRedirectErr)[0].ends_with("err=-12 map_id=5 map_index=0"));
    w.check_frames();
}
