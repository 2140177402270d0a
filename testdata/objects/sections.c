// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Programs in sections of all names, static functions beside entry programs, sections that nobody knows,
// and programs that cannot be prepared but that no one has to load.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern int bpf_no_such_kfunc(void) __ksym;
extern int CONFIG_NO_SUCH_OPTION __kconfig;

__u32 unknown SEC("mystery") = 1;

static __attribute__((noinline, section("xdp"))) int beside(__u32 x)
{
	return x * 3 + 1;
}

SEC("xdp")
int calls_beside(struct xdp_md *ctx)
{
	return beside(ctx->rx_queue_index) & 1 ? XDP_PASS : XDP_DROP;
}

#define PROGRAM(function, section)                                                                 \
	SEC(section)                                                                               \
	int function(struct xdp_md *ctx)                                                           \
	{                                                                                          \
		return XDP_PASS;                                                                   \
	}

PROGRAM(frags, "xdp.frags")
PROGRAM(devmap, "xdp/devmap")
PROGRAM(frags_devmap, "xdp.frags/devmap")
PROGRAM(cpumap, "xdp/cpumap")
PROGRAM(frags_cpumap, "xdp.frags/cpumap")
PROGRAM(named, "xdp/named")
PROGRAM(old_devmap, "xdp_devmap/egress")
PROGRAM(sock, "xdp_sock")
PROGRAM(classifier, "tc")
PROGRAM(optional, "?xdp")

SEC("kprobe/nothing")
int needs_kfunc(void *ctx)
{
	return bpf_no_such_kfunc();
}

SEC("?xdp")
int needs_config(struct xdp_md *ctx)
{
	return CONFIG_NO_SUCH_OPTION;
}

char _license[] SEC("license") = "Dual MIT/GPL";
