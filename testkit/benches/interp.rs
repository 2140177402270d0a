//! The checked interpreter's speed: nanoseconds of one run, entry included, and instructions per second.

use bpf::redirect::RedirectInfo;
use bpf::vm::{Profile, Run, Scratch};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use testkit::{engine, programs};

fn interpret(c: &mut Criterion) {
    let mut group = c.benchmark_group("interp");
    for (name, insns) in programs::all() {
        let program = engine::link(&insns).expect("links");
        let mut buff = engine::packet(&programs::udp_packet());
        let (mut scratch, mut redirect) = (Scratch::new(), RedirectInfo::default());
        let mut host = engine::FixedHost::default();
        let mut profile = Profile::default();
        let guard = mem::epoch::pin();
        let run = Run::checked(&program, &guard, &mut scratch, &mut buff, &mut redirect, &mut host);
        run.with_observer(&mut profile).execute().expect("no fault");
        group.throughput(Throughput::Elements(profile.total()));
        group.bench_function(name, |b| {
            b.iter(|| {
                Run::checked(&program, &guard, &mut scratch, &mut buff, &mut redirect, &mut host).execute()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, interpret);
criterion_main!(benches);
