//! Measures a program in rbpf's compiler for `earlybird bench exec`.
//!
//! `peer PROGRAM PACKET`: raw instructions and raw bytes. Prints nanoseconds of one run, of one run of a program
//! that does nothing, microseconds of compilation, and the verdict. The program gets an unmodified
//! `struct xdp_md`, whose 32-bit addresses are good because the packet lies below 4 GiB.

use std::error::Error;
use std::time::Instant;

const SLICES: usize = 400;
const SLICE_NS: f64 = 200_000.0;
const EMPTY: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(program), Some(packet)) = (args.next(), args.next()) else { return Err("PROGRAM PACKET".into()) };
    let (program, packet) = (std::fs::read(program)?, std::fs::read(packet)?);
    let memory = low_page()?;
    memory[256..256 + packet.len()].copy_from_slice(&packet);
    let data = memory.as_ptr() as usize as u32 + 256;
    let mut context = [0; 24];
    for (i, word) in [data, data + packet.len() as u32, data].into_iter().enumerate() {
        context[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes());
    }
    let mut empty = rbpf::EbpfVmMbuff::new(Some(&EMPTY))?;
    empty.jit_compile()?;
    let mut vm = rbpf::EbpfVmMbuff::new(Some(&program))?;
    let mut compile = f64::INFINITY;
    for _ in 0..10 {
        let started = Instant::now();
        vm.jit_compile()?;
        compile = compile.min(started.elapsed().as_secs_f64() * 1e6);
    }
    let packet = &mut memory[256..256 + packet.len()];
    // SAFETY: the kernel's verifier, or Earlybird's, has accepted the program for this context.
    let mut run = |vm: &rbpf::EbpfVmMbuff<'_>| unsafe { vm.execute_program_jit(packet, &mut context) };
    let verdict = run(&vm)?;
    let started = Instant::now();
    for _ in 0..64 {
        run(&vm)?;
    }
    let repeat = (SLICE_NS / (started.elapsed().as_secs_f64() * 1e9 / 64.0)).clamp(64.0, 100_000.0) as u32;
    let (mut total, mut entry) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..SLICES {
        for (vm, best) in [(&empty, &mut entry), (&vm, &mut total)] {
            let started = Instant::now();
            for _ in 0..repeat {
                run(vm)?;
            }
            *best = best.min(started.elapsed().as_secs_f64() * 1e9 / f64::from(repeat));
        }
    }
    println!("{total} {entry} {compile} {}", verdict as u32);
    Ok(())
}

fn low_page() -> Result<&'static mut [u8], Box<dyn Error>> {
    let (len, prot) = (4096, libc::PROT_READ | libc::PROT_WRITE);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    // SAFETY: a new mapping, which stays to the end of the process.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
    if p == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: as above, and nobody else has it.
    Ok(unsafe { std::slice::from_raw_parts_mut(p.cast(), len) })
}
