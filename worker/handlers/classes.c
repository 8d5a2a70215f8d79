/* The table of all handler classes. */
#include "handlers/classes.h"

const struct handler_class *const handler_classes[CLASS_COUNT] = {
    [CLASS_HL7_ROUTING_ENGINE] = &hl7_routing_engine_class,
    [CLASS_HTTP_SENDER] = &http_sender_class,
    [CLASS_FILE_WRITER] = &file_writer_class,
    [CLASS_ECHO] = &echo_class,
};

const struct handler_class *handler_class_of(const struct item *item)
{
    return handler_classes[item->class->id];
}
