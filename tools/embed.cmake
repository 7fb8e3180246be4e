# SPDX-License-Identifier: Apache-2.0
# cmake -DINPUT=file -DOUTPUT=file.c -DHEADER=part/x.h -DNAME=MED_X -P embed.cmake: the bytes of a
# file as the C array MED_X_DATA of MED_X_BYTES, which HEADER declares.
file(READ ${INPUT} hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR bytes "${digits} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," list "${hex}")
string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n" list "${list}")
file(WRITE ${OUTPUT} "/* Generated from ${INPUT}; not kept in the source tree. */
#include \"${HEADER}\"
const unsigned char ${NAME}_DATA[] = {
${list}
};
const size_t ${NAME}_BYTES = ${bytes};
")
