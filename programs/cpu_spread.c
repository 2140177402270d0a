// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* cpu_spread: spreads flows over CPUs, for devices that cannot do so themselves.
 *
 * cpu_spread hashes the 5-tuple and sends the frame to that entry of the map cpus, so a flow stays
 * on one CPU and in order; all fragments of a flow go by addresses and protocol, and what is not
 * IP goes to entry 0. An entry that is not set passes the frame on the CPU where it is. In an
 * entry, cpu_worker may be given as the program that runs over there: it drops frames that are
 * shorter than their IP header says, before the stack spends an skb on them.
 *
 * Maps: cpus (CPU to queue size and program), chosen (frames per entry; shows how even the hash
 * is), worked (frames and drops of cpu_worker per CPU).
 */
#include "include/flow.h"

#define CPUS 64

/* How many entries of cpus are in use. */
volatile const __u32 n_cpus = 2;
/* How many the kernel could have at most; 0 where it does not say. */
extern unsigned int CONFIG_NR_CPUS __kconfig __weak;

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, CPUS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct bpf_cpumap_val));
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CPUS);
	__type(key, __u32);
	__type(value, __u64);
} chosen SEC(".maps");

struct work {
	__u64 frames;
	__u64 dropped;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct work);
} worked SEC(".maps");

static __always_inline __u32 usable_cpus(void)
{
	__u32 n = n_cpus;

	if (CONFIG_NR_CPUS && n > CONFIG_NR_CPUS)
		n = CONFIG_NR_CPUS;
	return n > CPUS ? CPUS : n;
}

static __always_inline __u32 choose_cpu(struct xdp_md *ctx)
{
	__u32 n = usable_cpus();
	struct flow_key flow;
	enum flow_kind kind = flow_of(ctx, &flow);

	if (!n || kind == FLOW_NOT_IP || kind == FLOW_MALFORMED)
		return 0;
	return flow_hash(&flow, 0) % n;
}

SEC("xdp")
int cpu_spread(struct xdp_md *ctx)
{
	__u32 cpu = choose_cpu(ctx);
	__u64 *frames = bpf_map_lookup_elem(&chosen, &cpu);

	if (frames)
		__sync_fetch_and_add(frames, 1);
	return bpf_redirect_map(&cpus, cpu, XDP_PASS);
}

/* The length that an IP header announces, counted from the header's start; 0 if there is none. */
static __always_inline __u32 announced_length(struct cursor *c, __be16 proto)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;

	if (proto == bpf_htons(ETH_P_IP)) {
		ip = take_ipv4(c);
		return ip ? bpf_ntohs(ip->tot_len) : 0;
	}
	if (proto == bpf_htons(ETH_P_IPV6)) {
		ip6 = take_ipv6(c);
		return ip6 ? sizeof(*ip6) + bpf_ntohs(ip6->payload_len) : 0;
	}
	return 0;
}

SEC("xdp/cpumap")
int cpu_worker(struct xdp_md *ctx)
{
	struct cursor c = frame_start(ctx);
	__u32 zero = 0, room;
	struct work *work = bpf_map_lookup_elem(&worked, &zero);
	bool whole = false;
	__be16 proto;

	if (take_eth(&c, &proto) && skip_vlans(&c, &proto)) {
		room = c.end - c.pos;
		whole = announced_length(&c, proto) <= room;
	}
	if (work) {
		work->frames++;
		work->dropped += !whole;
	}
	return whole ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
