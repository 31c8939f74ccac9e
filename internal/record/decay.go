package record

// crcPolynomial is that of CRC-32C, reflected.
const crcPolynomial = 0x82f63b78

// FlippedBit finds the one bit of n bytes whose flipping changes their CRC-32C by difference. Bit 0 is the lowest of the first byte.
// Within MaxBatchBytes no two bits have the same. It takes time in proportion to n and allocates nothing.
func FlippedBit(difference uint32, n int64) (int64, bool) {
	for bit := 8*n - 1; bit >= 0; bit-- { // one step back through the register for each bit behind
		if difference&0x80000000 != 0 {
			difference = (difference^crcPolynomial)<<1 | 1
		} else {
			difference <<= 1
		}
		if difference == 1 {
			return bit, true
		}
	}
	return 0, false
}
