//! An object file: ELF, BTF, CO-RE, line information, linking.
//!
//!     mkdir -p fuzz/corpus/object && cp programs/*.o testdata/objects/*.o fuzz/corpus/object
//!     cargo +nightly fuzz run object
#![no_main]

use bpf::btf::Btf;
use bpf::object::{ObjectSpec, Target};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(spec) = ObjectSpec::parse(bytes, "fuzz.o", &Target::bundled()) else { return };
    for p in &spec.programs {
        let end = p.insns.len() as u32;
        assert!(p.subprogs.iter().all(|s| s.start < end) && p.line_info.iter().all(|l| l.insn < end));
    }
    if let Some(btf) = &spec.btf {
        assert!(Btf::parse(&btf.for_kernel()).is_ok());
    }
});
