//! [`probe_read`]: reading memory that may not be there.
// UNSAFETY: has the kernel copy from addresses that nothing vouches for.
#![allow(unsafe_code)]

/// Copies bytes from an address of this process, if they are all there to be read; answers whether they are.
/// It costs a system call: it is for pointers that no one has proved anything about.
///
/// ```
/// let text = *b"hello";
/// let mut copy = [0; 5];
/// assert!(mem::probe_read(text.as_ptr().expose_provenance() as u64, &mut copy));
/// assert_eq!(copy, text);
/// assert!(!mem::probe_read(8, &mut copy));
/// ```
///
/// Kernel: `mm/maccess.c copy_from_kernel_nofault, v6.18`
#[doc(alias = "copy_from_kernel_nofault")]
#[must_use]
pub fn probe_read(addr: u64, dst: &mut [u8]) -> bool {
    let local = libc::iovec { iov_base: dst.as_mut_ptr().cast(), iov_len: dst.len() };
    let remote =
        libc::iovec { iov_base: std::ptr::without_provenance_mut(addr as usize), iov_len: dst.len() };
    // SAFETY: `local` is exclusively borrowed memory; `remote` is only read, by the kernel, which answers
    // with an error if the bytes are not readable.
    let n = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(n).is_ok_and(|n| n == dst.len())
}
