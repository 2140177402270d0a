//! What an AF_XDP socket does, held against all homes: every scenario runs on the engine's socket on a plain cable,
//! on veth devices of the engine's machine, through a server as another process would, and on one of the running
//! kernel, with the same expected answers, which were taken from the kernel.

mod lab;
mod machine;
mod raw;
mod remote;
mod rx;
mod sanitizer;
mod setup;
mod tx;
mod xceiver;

/// One scenario, four tests.
macro_rules! on_all_homes {
    ($($name:ident),* $(,)?) => {
        mod engine {
            $(#[test]
            fn $name() {
                super::$name(&crate::lab::EngineLab::new());
            })*
        }
        mod machine {
            $(#[test]
            fn $name() {
                super::$name(&crate::machine::MachineLab::new());
            })*
        }
        mod remote {
            $(#[test]
            fn $name() {
                super::$name(&crate::remote::RemoteLab::new());
            })*
        }
        mod kernel {
            $(#[test]
            fn $name() {
                linux::needs_kernel!();
                crate::lab::KernelLab::run(|lab| super::$name(lab));
            })*
        }
    };
}
use on_all_homes;

/// An Ethernet frame of a type that nobody else sends.
fn packet(len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|i| i as u8).collect();
    let header = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    let n = len.min(14);
    packet[..n].copy_from_slice(&header[..n]);
    packet
}
