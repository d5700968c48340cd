#include <stdio.h>
int main(void) { return puts("small") < 0; }
