// SPDX-License-Identifier: MIT OR Apache-2.0
//
// RCU section missing, nested or not open.
//
// Rejected: EB0706 at line 14
#include "rejection.h"

extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	bpf_rcu_read_unlock();
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	bpf_rcu_read_lock();
	bpf_rcu_read_unlock();
	return XDP_PASS;
}
