/* SPDX-License-Identifier: MIT */
/* B7: who takes a page that soon would be taken meets no page fault for it. */
#include "heard.h"
#include "pages.h"

#define CHUNK_PAGES_SIZE (TDI_CHUNK_PAGES * (size_t)TDI_PAGE_SIZE)

static struct tdi_pages pool;

static void begin(void)
{
	ck_assert_int_eq(tdi_pages_init(&pool, 1), 0);
}

static void end(void)
{
	tdi_pages_destroy(&pool);
}

/* Beside the links. */
static size_t resident(unsigned chunk)
{
	char *start = (char *)atomic_load(&pool.chunks[chunk]);

	return tdt_resident(start + TDI_PAGE_SIZE, CHUNK_PAGES_SIZE);
}

struct used {
	struct tdi_page *pages[TDI_TOUCH_FROM + 1];
	unsigned n;
};

/* As whoever closes groups does. */
static void use(struct used *used, unsigned n)
{
	for (; used->n < n; used->n++) {
		struct tdi_page *page = tdi_page_get(&pool);

		ck_assert_ptr_nonnull(page);
		used->pages[used->n] = page;
		tdi_pages_touch_ahead(&pool, page);
	}
}

static void give_back(struct used *used)
{
	while (used->n > 0)
		tdi_page_put(&pool, used->pages[--used->n]);
}

/* B7 */
START_TEST(a_chunk_whose_first_pages_are_in_use_is_touched_ahead)
{
	struct used used = {.n = 0};

	/* Given back, it is as it was in the beginning. */
	for (int round = 0; round < 2; round++) {
		ck_assert_uint_eq(resident(0), 0);
		use(&used, TDI_TOUCH_FROM);
		ck_assert_uint_eq(resident(0), TDI_TOUCH_FROM * TDI_PAGE_SIZE);
		use(&used, TDI_TOUCH_FROM + 1);
		ck_assert_uint_eq(resident(0), CHUNK_PAGES_SIZE);
		give_back(&used);
		tdi_pages_trim(&pool);
	}
}
END_TEST

/* B7 */
START_TEST(a_chunk_that_is_made_for_need_is_touched)
{
	ck_assert_int_eq(tdi_pages_grow(&pool), 0);
	ck_assert_uint_eq(resident(0), 0);
	ck_assert_uint_eq(resident(1), CHUNK_PAGES_SIZE);
}
END_TEST

/* B7 */
START_TEST(a_kernel_that_does_not_touch_ahead_does_no_harm)
{
	struct used used = {.n = 0};

	tdt_fail(TDI_SYS_madvise, -EINVAL, 0, UINT32_MAX);
	ck_assert_int_eq(tdi_pages_grow(&pool), 0);
	ck_assert_uint_eq(tdt_calls(TDI_SYS_madvise), 1);
	use(&used, TDI_TOUCH_FROM + 1);
	tdt_fail_none();
	ck_assert_uint_eq(resident(0), 0);
	ck_assert_uint_eq(resident(1), (TDI_TOUCH_FROM + 1) * TDI_PAGE_SIZE);
	give_back(&used);
}
END_TEST

int main(void)
{
	struct tdt *tests = tdt_suite("pages_touched");
	const TTest *all[] = {
		a_chunk_whose_first_pages_are_in_use_is_touched_ahead,
		a_chunk_that_is_made_for_need_is_touched,
		a_kernel_that_does_not_touch_ahead_does_no_harm,
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		tdt_add(tests, all[i], begin, end);
	return tdt_run(tests);
}
