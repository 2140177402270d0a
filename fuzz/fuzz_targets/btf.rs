//! A blob of type information, and all questions to it.
//!
//!     cargo +nightly fuzz run btf
#![no_main]

use bpf::btf::Btf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(btf) = Btf::parse(bytes) else { return };
    assert_eq!(Btf::parse(&btf.encode()).as_ref(), Ok(&btf));
    assert!(Btf::parse(&btf.for_kernel()).is_ok());
    for (id, t) in btf.iter().take(1000) {
        let _ = (btf.size_of(id), btf.align_of(id), btf.prototype(id), btf.decl_tags(id).count());
        let _ = (btf.c_definition(id), btf.member(id, "a"), btf.find(btf.str(t.name), t.tag()));
    }
});
