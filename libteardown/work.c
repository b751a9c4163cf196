/* SPDX-License-Identifier: MIT */
#include "engine_internal.h"
#include "sys.h"
#include "trace.h"

enum { WORK_IDLE, WORK_QUEUED };

/* Pauses of 1, 2, 4 .. 512 ms: a second in all. */
#define PAUSES_IN_CALLER 10

void td_work_init(struct td_work *work, const struct td_work_ops *ops, uint64_t cost)
{
	*work = (struct td_work){.ops = ops, .cost = cost};
}

TDI_HOT bool tdi_work_claim(struct td_work *work)
{
	/* seq_cst: pairs with tdi_work_finish for a work that is used again, and is one
	 * side of "is there more?", see batch_free.c. */
	return atomic_exchange_explicit(&work->tdi_state, WORK_QUEUED,
					memory_order_seq_cst) == WORK_IDLE;
}

void tdi_work_unclaim(struct td_work *work)
{
	atomic_store_explicit(&work->tdi_state, WORK_IDLE, memory_order_seq_cst);
}

TDI_HOT static void begin(struct td_engine *engine, struct td_work *work, uint64_t left)
{
	work->tdi_limit = work->parallel > 0 ? work->parallel : 1;
	work->tdi_running = 0;
	work->tdi_sit_out = 0;
	work->tdi_pause_ns = 0;
	work->tdi_status = 0;
	work->tdi_share = work->tdi_serial = 0;
	work->tdi_exhausted = work->tdi_later = work->tdi_leaves = false;
	work->tdi_had_slice = false;
	atomic_store_explicit(&work->tdi_at_home, 0, memory_order_relaxed);
	atomic_store_explicit(&work->tdi_slices, 0, memory_order_relaxed);
	atomic_store_explicit(&work->tdi_cpu_ns, 0, memory_order_relaxed);
	atomic_store_explicit(&work->tdi_left, left, memory_order_relaxed);

	atomic_fetch_add_explicit(&engine->works_submitted, 1, memory_order_relaxed);
}

TDI_HOT void tdi_work_begin(struct td_engine *engine, struct td_work *work, bool admitted)
{
	begin(engine, work, work->cost);
	work->tdi_exempt = !admitted;
	if (!admitted && work->cost > 0)
		atomic_fetch_add_explicit(&engine->bytes_exempt, work->cost,
					  memory_order_relaxed);
	work->tdi_epoch = (unsigned char)tdi_pending_begin(&engine->pending, 1);
}

/* At most what is left of the work's cost: how much it was. */
static uint64_t take_cost(struct td_work *work, uint64_t bytes)
{
	uint64_t left = atomic_load_explicit(&work->tdi_left, memory_order_relaxed);
	uint64_t part;

	do {
		part = bytes < left ? bytes : left;
	} while (!atomic_compare_exchange_weak_explicit(&work->tdi_left, &left,
							left - part, memory_order_relaxed,
							memory_order_relaxed));
	return part;
}

void tdi_work_begin_part(struct td_engine *engine, struct td_work *part,
			 struct td_work *whole)
{
	begin(engine, part, take_cost(whole, part->cost));
	part->tdi_exempt = whole->tdi_exempt;
	/* Who waits for the whole waits for its parts. */
	part->tdi_epoch = whole->tdi_epoch;
	tdi_pending_join(&engine->pending, part->tdi_epoch, 1);
}

/* Takes it out of what is pending. */
static void settle(struct td_engine *engine, struct td_work *work, uint64_t bytes)
{
	uint64_t part = take_cost(work, bytes);

	if (part == 0)
		return;
	if (work->tdi_exempt)
		atomic_fetch_sub_explicit(&engine->bytes_exempt, part,
					  memory_order_relaxed);
	else
		tdi_budget_give(engine, part);
}

/* Other works wait no longer for what the host does here than for a slice, by their
 * turns; and it is charged with them. */
static void look_in(struct td_engine *engine, uint64_t began,
		    const struct tdi_slice_end *end)
{
	struct tdi_account account;

	tdi_account_begin(&account);
	tdi_progress_look_in(engine, began, began + end->took_ns, end->bytes);
	(void)tdi_account_end(engine, &account);
}

int tdi_work_slice(struct td_engine *engine, struct td_work *work, int node,
		   struct tdi_slice_end *end)
{
	uint64_t target = tdi_engine_slice_ns(engine);
	uint64_t began = tdi_sys_now_ns(), cpu;
	struct tdi_account account;
	struct td_slice slice = {
		.deadline_ns = tdi_sys_deadline((int64_t)target),
		.target_ns = target,
		.parallel = work->parallel > 0 ? work->parallel : 1,
		.tdi_node = node,
		.tdi_home = TDI_NODE_UNKNOWN,
		.tdi_hints = &engine->tune.hints,
	};
	int result;

	tdi_account_begin(&account);
	result = work->ops->slice(work, &slice);
	cpu = tdi_account_end(engine, &account);
	tdi_account_slice(engine, slice.released);
	settle(engine, work, slice.released);
	atomic_fetch_add_explicit(&work->tdi_slices, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&work->tdi_cpu_ns, cpu, memory_order_relaxed);
	if (result == TD_WORK_LATER)
		atomic_fetch_add_explicit(&engine->pauses, 1, memory_order_relaxed);
	*end = (struct tdi_slice_end){
		.parallel = slice.parallel,
		.bytes = slice.released,
		.took_ns = tdi_sys_now_ns() - began,
		.home = slice.tdi_home,
	};
	end->overstay = end->took_ns / target;
	if (end->overstay > 0) /* its own; and a little more is nobody's fault */
		end->overstay--;
	tdi_trace_slice(engine->name, work, end->bytes, end->took_ns, result);
	if (tdi_unlikely(tdi_progress_is_due(&engine->progress, began + end->took_ns)))
		look_in(engine, began, end);
	return result;
}

static void tell_ended(struct td_engine *engine)
{
	struct tdi_account account;

	tdi_account_begin(&account);
	tdi_progress_ended(engine);
	(void)tdi_account_end(engine, &account);
}

void tdi_work_finish(struct td_engine *engine, struct td_work *work, int status)
{
	unsigned epoch = work->tdi_epoch;
	uint64_t done;
	struct tdi_account account;

	tdi_account_begin(&account);
	settle(engine, work, UINT64_MAX);
	if (status < 0)
		atomic_fetch_add_explicit(&engine->works_failed, 1, memory_order_relaxed);
	/* seq_cst: pairs with tdi_work_claim. */
	atomic_store_explicit(&work->tdi_state, WORK_IDLE, memory_order_seq_cst);
	if (work->ops->done)
		work->ops->done(work, status);
	(void)tdi_account_end(engine, &account);
	/* seq_cst: O2 in progress.h. Whoever ends the last one knows of all submitted. */
	done = atomic_fetch_add_explicit(&engine->works_done, 1, memory_order_seq_cst);
	if (tdi_progress_was_told(&engine->progress) &&
	    done + 1 ==
		    atomic_load_explicit(&engine->works_submitted, memory_order_relaxed))
		tell_ended(engine);
	tdi_pending_end(&engine->pending, epoch, 1);
}

static bool run_here(struct td_engine *engine, struct td_work *work)
{
	struct tdi_slice_end end;
	unsigned pauses = 0;

	atomic_fetch_add_explicit(&engine->works_in_caller, 1, memory_order_relaxed);
	for (;;) {
		int result = tdi_work_slice(engine, work, TDI_NODE_UNKNOWN, &end);

		if (result == TD_WORK_LATER) {
			if (++pauses > PAUSES_IN_CALLER)
				return false;
			work->tdi_pause_ns = tdi_queue_next_pause(work->tdi_pause_ns);
			tdi_sys_pause(work->tdi_pause_ns);
		} else if (result == TD_WORK_MORE || result == TD_WORK_WAIT) {
			pauses = 0;
			work->tdi_pause_ns = 0;
		} else {
			tdi_work_finish(engine, work, result < 0 ? result : 0);
			return true;
		}
	}
}

bool tdi_work_run_here(struct td_engine *engine, struct td_work *work, enum tdi_role role)
{
	struct tdi_reaping here;
	bool finished;

	tdi_reaping_enter(&here, engine);
	here.role = role;
	finished = run_here(engine, work);
	tdi_reaping_leave(&here);
	return finished;
}
