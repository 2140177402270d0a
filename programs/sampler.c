// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* sampler and sampler_perf: the first bytes of one frame in `every`, to user space.
 *
 * sampler writes records of a fixed size into a ring buffer that all CPUs share: `struct sample`,
 * whose data holds captured bytes and zeros behind them. sampler_perf does the same with perf
 * events, one ring per CPU, where the kernel itself appends the frame's bytes to `struct header`.
 * Both pass every frame, and count what found no room.
 *
 * Records are numbered, so that a reader sees what is missing between two of them, and carry a
 * time only with with_time: without it, a run over the same capture gives the same records.
 *
 * Maps: samples (ring buffer), events (perf events; user space opens one per CPU).
 */
#include "include/parse.h"

volatile const __u32 every = 16;
volatile const bool with_time = false;

#define SNAP_LENGTH 128

struct header {
	__u64 number;
	__u64 time_ns; /* since boot, or 0 */
	__u32 ifindex;
	__u32 rx_queue;
	__u32 length;
	__u32 captured;
};

struct sample {
	struct header header;
	__u8 data[SNAP_LENGTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} samples SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

__u64 frames;
__u64 sampled;
__u64 lost;

/* Whether this frame is one of the sampled, and which number it has among all. */
static __always_inline bool is_sampled(__u64 *number)
{
	*number = __sync_fetch_and_add(&frames, 1);
	return every && *number % every == 0;
}

static __always_inline void fill_header(struct xdp_md *ctx, struct header *header, __u64 number)
{
	__u64 length = bpf_xdp_get_buff_len(ctx);

	header->number = number;
	header->time_ns = with_time ? bpf_ktime_get_ns() : 0;
	header->ifindex = ctx->ingress_ifindex;
	header->rx_queue = ctx->rx_queue_index;
	header->length = length;
	header->captured = length < SNAP_LENGTH ? length : SNAP_LENGTH;
}

/* frags: the first bytes are read with a helper that does not care where a frame's pages are. */
SEC("xdp.frags")
int sampler(struct xdp_md *ctx)
{
	struct sample *sample;
	__u32 captured;
	__u64 number;

	if (!is_sampled(&number))
		return XDP_PASS;
	sample = bpf_ringbuf_reserve(&samples, sizeof(*sample), 0);
	if (!sample) {
		__sync_fetch_and_add(&lost, 1);
		return XDP_PASS;
	}
	fill_header(ctx, &sample->header, number);
	/* The place was used before: nothing old may be left behind the captured bytes. */
	__builtin_memset(sample->data, 0, sizeof(sample->data));
	captured = sample->header.captured;
	if (captured == 0 || captured > SNAP_LENGTH ||
	    bpf_xdp_load_bytes(ctx, 0, sample->data, captured)) {
		bpf_ringbuf_discard(sample, 0);
		return XDP_PASS;
	}
	bpf_ringbuf_submit(sample, 0);
	__sync_fetch_and_add(&sampled, 1);
	return XDP_PASS;
}

SEC("xdp.frags")
int sampler_perf(struct xdp_md *ctx)
{
	struct header header = {};
	__u64 number, flags;

	if (!is_sampled(&number))
		return XDP_PASS;
	fill_header(ctx, &header, number);
	/* The upper half of the flags says how many bytes of the frame follow the header. */
	flags = BPF_F_CURRENT_CPU | (__u64)header.captured << 32;
	if (bpf_perf_event_output(ctx, &events, flags, &header, sizeof(header)))
		__sync_fetch_and_add(&lost, 1);
	else
		__sync_fetch_and_add(&sampled, 1);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
