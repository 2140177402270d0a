// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Bytes of a dynptr overwritten.
//
// Rejected: EB0904 at line 16
#include "rejection.h"

RINGBUF(events, 4096);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	struct bpf_dynptr record;

	bpf_ringbuf_reserve_dynptr(&events, 8, 0, &record);
	*(volatile __u64 *)&record = 0;
	bpf_ringbuf_discard_dynptr(&record, 0);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	struct bpf_dynptr record;

	bpf_ringbuf_reserve_dynptr(&events, 8, 0, &record);
	bpf_ringbuf_discard_dynptr(&record, 0);
	return XDP_PASS;
}
