// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Too many instructions to look at, over all paths.
//
// Rejected: EB1001 at line 13
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u64 sum = 0;

	for (int i = 0; i < 3000000; i++) {
		hide(i);
		sum += i;
	}
	return sum ? XDP_PASS : XDP_DROP;
}

static long add(__u32 turn, __u64 *sum)
{
	*sum += turn;
	return 0;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u64 sum = 0;

	bpf_loop(3000000, add, &sum, 0);
	return sum ? XDP_PASS : XDP_DROP;
}
