//! Compiled programs: from verified instructions to x86-64 machine code.

#[allow(dead_code, unused_imports, reason = "the translator that uses it comes next")]
mod asm;
