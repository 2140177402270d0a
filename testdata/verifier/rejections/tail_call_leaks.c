// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Tail call or exception with a reference in hand.
//
// Rejected: EB0602 at line 18
#include "rejection.h"

RINGBUF(events, 4096);
PROGRAMS(next, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	void *event = bpf_ringbuf_reserve(&events, 8, 0);

	if (!event)
		return XDP_PASS;
	bpf_tail_call(ctx, &next, 0);
	bpf_ringbuf_discard(event, 0);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	void *event = bpf_ringbuf_reserve(&events, 8, 0);

	if (!event)
		return XDP_PASS;
	bpf_ringbuf_discard(event, 0);
	bpf_tail_call(ctx, &next, 0);
	return XDP_PASS;
}
