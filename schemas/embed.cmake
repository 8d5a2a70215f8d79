# hie_embed(TARGET TABLE GLOB): compiles the files that GLOB names into TARGET as one sorted table,
#   struct embedded_file { const char *name; const char *text; size_t len; };
#   extern const struct embedded_file TABLE[]; extern const size_t TABLE_count;
# declared in base/embedded.h. The programs so need no file of the source tree at run time.
function(hie_embed target table glob)
    file(GLOB files CONFIGURE_DEPENDS ${glob})
    list(SORT files)
    get_target_property(kind ${target} TYPE)
    if(NOT files OR kind STREQUAL "INTERFACE_LIBRARY")
        return()
    endif()
    set(out ${CMAKE_BINARY_DIR}/embedded/${table}.c)
    add_custom_command(OUTPUT ${out}
        COMMAND ${CMAKE_COMMAND} -DOUT=${out} -DTABLE=${table} "-DFILES=${files}"
                -P ${CMAKE_SOURCE_DIR}/schemas/embed-files.cmake
        DEPENDS ${files} ${CMAKE_SOURCE_DIR}/schemas/embed-files.cmake VERBATIM)
    target_sources(${target} PRIVATE ${out})
endfunction()
