//! A packet on its way through veth allocates nothing, whatever becomes of it: a counting allocator shows it.

use std::alloc::System;
use std::path::Path;
use std::sync::Arc;

use bpf::object::{ObjectSpec, Target};
use control::EngineKind;
use control::scene::{Scene, parse_packet, play};
use machine::scene::EngineScene;
use machine::{EngineBackend, NetConfig, NetTables};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PACKETS: u32 = 6400;

/// Runs packets by the generator to device `a`, with programs where the steps put them, and answers how many
/// allocations that took after a first round.
fn allocations(kind: EngineKind, steps: &str) -> usize {
    let text = format!(
        "title = \"t\"\nobjects = {{ gen = \"path\", mid = \"path\", end = \"path\" }}\n\
         [[device]]\nveth = [\"a\", \"b\"]\n[[device]]\nveth = [\"c\", \"d\"]\n\
         [[step]]\nset = {{ map = \"gen.devices\", key = 0, device = \"a\" }}\n{steps}"
    );
    let scene = Scene::parse(Path::new("t"), &text).unwrap();
    let net = Arc::new(NetTables::new(&NetConfig::default()).unwrap());
    let open = |_: &Path| {
        let bytes = include_bytes!("../../../programs/path/path.bpf.o");
        ObjectSpec::parse(bytes, "path", &Target::bundled()).map_err(|e| e.to_string())
    };
    let mut home = EngineScene::new(&scene, &EngineBackend::new(1, 1, net), kind, &open).unwrap();
    home.stop_tracing();
    assert!(play(&scene, &mut home, false).unwrap().passed());
    let packet = parse_packet("eth 02::1 > 02::2, ipv4 10.0.0.1 > 10.0.0.2, udp 1 > 2, len 64").unwrap();
    let generator = ("gen".to_owned(), "redirect_map".to_owned());
    home.run_live(&generator, "a", &packet, PACKETS).unwrap();
    let region = Region::new(ALLOCATOR);
    home.run_live(&generator, "a", &packet, PACKETS).unwrap();
    region.change().allocations
}

fn attach(device: &str, program: &str) -> String {
    format!("[[step]]\nattach = {{ device = \"{device}\", program = \"{program}\", mode = \"drv\" }}\n")
}

#[test]
fn packets_allocate_nothing() {
    let drop = attach("b", "end.count_drop");
    let tx = attach("b", "mid.tx") + &attach("a", "end.count_drop");
    let to_c = "[[step]]\nset = { map = \"mid.devices\", key = 0, device = \"c\" }\n";
    let redirect = attach("b", "mid.redirect_map") + to_c + &attach("d", "end.count_drop");
    for (name, steps) in [("drop", drop), ("tx", tx), ("redirect", redirect)] {
        // A handful is for the round as a whole, not for its 6,400 packets.
        let n = allocations(EngineKind::Jit, &steps);
        assert!(n < 8, "{name}: {n} allocations for {PACKETS} packets");
    }
}
