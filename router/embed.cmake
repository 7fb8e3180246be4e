# SPDX-License-Identifier: Apache-2.0
# cmake -DINPUT=file -DOUTPUT=file.c -P embed.cmake: the bytes of a file as a C array.
file(READ ${INPUT} hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR bytes "${digits} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," list "${hex}")
string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n" list "${list}")
file(WRITE ${OUTPUT} "/* Generated from ${INPUT}; not kept in the source tree. */
#include \"router/descriptors.h\"
const unsigned char MED_DESCRIPTOR_SET_DATA[] = {
${list}
};
const size_t MED_DESCRIPTOR_SET_BYTES = ${bytes};
")
