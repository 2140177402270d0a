// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Access outside of memory of known size.
//
// Rejected: EB0407 at line 17
#include "rejection.h"

RINGBUF(events, 4096);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u64 *event = bpf_ringbuf_reserve(&events, 8, 0);

	if (!event)
		return XDP_DROP;
	event[1] = 1;
	bpf_ringbuf_submit(event, 0);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u64 *event = bpf_ringbuf_reserve(&events, 16, 0);

	if (!event)
		return XDP_DROP;
	event[1] = 1;
	bpf_ringbuf_submit(event, 0);
	return XDP_PASS;
}
