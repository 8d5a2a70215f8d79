/* The classes, one file each; the table over them is handler_classes (handler.h). What each does,
 * its settings and how it fails is described in schemas/classes.md. */
#ifndef HIE_HANDLERS_CLASSES_H
#define HIE_HANDLERS_CLASSES_H

#include "handler.h"

extern const struct handler_class hl7_routing_engine_class;
extern const struct handler_class http_sender_class;
extern const struct handler_class file_writer_class;
extern const struct handler_class echo_class;

#endif
