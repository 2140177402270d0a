// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Too many open branches on one path.
//
// Rejected: EB1002 at line 15
#include "rejection.h"

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u64 sum = 0;

	for (int i = 0; i < 20000; i++) {
		hide(i);
		if (bpf_get_prandom_u32() == 7)
			sum += i;
	}
	return sum ? XDP_PASS : XDP_DROP;
}

static long add(__u32 turn, __u64 *sum)
{
	if (bpf_get_prandom_u32() == 7)
		*sum += turn;
	return 0;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u64 sum = 0;

	bpf_loop(20000, add, &sum, 0);
	return sum ? XDP_PASS : XDP_DROP;
}
