// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Function that may sleep, where nothing may.
//
// Rejected: EB0510 at line 15
#include "rejection.h"

extern int bpf_copy_from_user_str(void *to, __u32 size, const void *from, __u64 flags) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	char copy[16] = {};

	bpf_copy_from_user_str(copy, sizeof(copy), (void *)64, 0);
	return copy[0] ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	char copy[16] = {};

	bpf_xdp_load_bytes(ctx, 0, copy, sizeof(copy));
	return copy[0] ? XDP_PASS : XDP_DROP;
}
