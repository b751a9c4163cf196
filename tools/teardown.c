/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <teardown.h>

int main(void)
{
	printf("teardown %s\n", TD_VERSION_STRING);
	return 0;
}
