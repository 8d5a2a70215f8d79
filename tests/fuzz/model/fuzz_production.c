/* Any bytes as a production file: no crash, no leak, a production only without errors, and messages that a terminal can
 * print. */
#include "base/bug.h"
#include "model/production.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct diagnostics all;
    setenv("HIE_TEST_NUMBER", "12", 1);
    setenv("HIE_TEST_TEXT", "a: [b", 1);
    struct production *production = production_parse(slice_of(data, size), &all);
    BUG_ON((production != NULL) != (all.error_count == 0));
    for (size_t i = 0; i < all.count; i++) {
        BUG_ON(i && all.list[i].line < all.list[i - 1].line);
        for (const char *at = all.list[i].message; *at; at++)
            BUG_ON((unsigned char)*at < ' ' || *at == 0x7F);
    }
    for (size_t i = 0; production && i < production->item_count; i++) {
        const struct item *item = &production->items[i];
        BUG_ON(production_find(production, slice_text(item->id)) != item);
        BUG_ON(!item->class || !item->settings);
    }
    for (size_t i = 0; production && i < production->dispatcher.mllp_count; i++)
        BUG_ON(!production->dispatcher.mllp[i].item);
    diagnostics_done(&all);
    production_free(production);
    return 0;
}
