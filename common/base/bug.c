#include "base/bug.h"

#include <stdio.h>
#include <stdlib.h>

void bug_abort(const char *condition, const char *file, int line)
{
    fprintf(stderr, "level=fatal event=bug condition=\"%s\" at=%s:%d\n", condition, file, line);
    abort();
}
