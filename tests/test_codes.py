"""Binary codes beside NumPy's bits and loops over them."""

import numpy as np
import pytest
import torch

from modeling_dualspace.average_precision import average_precision
from modeling_dualspace.codes import hamming, pack, sign_codes, unpack
from modeling_dualspace.retrieval_scores import retrieval_scores

BITS = [1, 2, 7, 8, 9, 15, 16, 24, 31, 64, 100, 128, 1000]


def codes_of(rows, bits, seed=0):
    return sign_codes(torch.randn(rows, bits, generator=torch.Generator().manual_seed(seed)))


def naive_hamming(one, other):
    return [
        [sum(a != b for a, b in zip(mine, theirs, strict=True)) for theirs in other.tolist()] for mine in one.tolist()
    ]


# Codes.


@pytest.mark.parametrize("bits", BITS)
def test_codes_are_signs_of_unit_length(bits):
    outputs = torch.randn(5, bits)
    codes = sign_codes(outputs)
    assert torch.equal(codes > 0, outputs > 0) and len(codes.abs().unique()) == 1
    # float32's rounding of a sum of `bits` equal squares.
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(5), rtol=1e-5, atol=0)


def test_zero_of_either_sign_counts_as_positive():
    assert (sign_codes(torch.tensor([[0.0, -0.0, -1e-45, 1e-45]])) > 0).tolist() == [[True, True, False, True]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_codes_are_of_the_type_of_the_outputs(dtype):
    codes = sign_codes(torch.tensor([[2.0, -3.0, 0.5]], dtype=dtype))
    expected = torch.tensor([[1.0, -1.0, 1.0]], dtype=torch.float64) / 3**0.5
    torch.testing.assert_close(codes, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=0)


def test_infinities_have_signs_and_what_is_no_number_stays_none():
    """Weights of NaN must show in the codes: any sign would pass for an embedding."""
    codes = sign_codes(torch.tensor([[torch.inf, -torch.inf, torch.nan, 1.0]]))
    assert codes[0, [0, 1, 3]].tolist() == [0.5, -0.5, 0.5] and codes[0, 2].isnan()


def test_a_code_sends_no_gradient():
    outputs = torch.randn(3, 4, requires_grad=True)
    assert not sign_codes(outputs).requires_grad or not torch.autograd.grad(sign_codes(outputs).sum(), outputs)[0].any()


# Bytes.


@pytest.mark.parametrize("bits", BITS)
def test_packed_bits_are_numpy_s(bits):
    codes = codes_of(9, bits)
    found = pack(codes)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), np.packbits(codes.numpy() > 0, axis=1))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float16, torch.float64])
def test_any_positive_and_negative_number_are_a_one_and_a_zero(dtype):
    signs = torch.tensor([[1, -1, 3, -7, 2, 1, 1, -1, 1]], dtype=dtype)
    assert pack(signs).tolist() == [[0b10101110, 0b10000000]]


@pytest.mark.parametrize("bits", BITS)
def test_what_is_unpacked_is_what_was_packed_to_the_bit(bits):
    codes = codes_of(9, bits)
    assert torch.equal(unpack(pack(codes), bits), codes)


@pytest.mark.parametrize("bits", [3, 16])
def test_no_rows_are_packed_and_unpacked_as_none(bits):
    codes = torch.empty(0, bits)
    packed = pack(codes)
    assert packed.shape == (0, -(-bits // 8)) and packed.dtype == torch.uint8
    assert unpack(packed, bits).shape == (0, bits)
    assert hamming(packed, pack(codes_of(4, bits))).shape == (0, 4)


@pytest.mark.parametrize("bits", BITS)
def test_the_hamming_distance_counts_the_places_where_codes_differ(bits):
    one, other = codes_of(6, bits), codes_of(8, bits, seed=1)
    found = hamming(pack(one), pack(other))
    assert found.tolist() == naive_hamming(one, other) and found.dtype == torch.int64
    assert torch.equal(hamming(pack(other), pack(one)), found.T)
    assert hamming(pack(one), pack(-one)).diagonal().tolist() == [bits] * 6


def test_rows_may_be_a_view():
    one = codes_of(30, 64)
    assert torch.equal(hamming(pack(one)[::2], pack(one)[5:]), hamming(pack(one), pack(one))[::2, 5:])
    assert torch.equal(pack(one.T.contiguous().T), pack(one))


# The ranking.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", BITS)
def test_the_cosine_is_one_less_twice_the_share_of_bits_that_differ(bits, dtype):
    one, other = (codes_of(12, bits, seed).to(dtype) for seed in (0, 1))
    expected = 1 - 2 * hamming(pack(one), pack(other)).double() / bits
    # Codes are rounded to float32 before they are float64: a sum of `bits` products of them.
    torch.testing.assert_close((one @ other.T).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("members", [False, True], ids=["classes", "memberships"])
@pytest.mark.parametrize("bits", [3, 8, 12, 64])
def test_the_score_of_codes_is_that_of_their_hamming_distances_with_ties_by_expectation(bits, members):
    labels = torch.arange(40) % 4
    centres = torch.randn(4, bits, generator=torch.Generator().manual_seed(2))
    audio, visual = (sign_codes(centres[labels] + 1.5 * codes_of(40, bits, seed) * bits**0.5) for seed in (3, 4))
    share = labels.unsqueeze(1) == labels
    given = labels
    if members:
        given = torch.eye(4)[labels].clone()
        given[::5, 0] = 1
        share = given @ given.T > 0
    table = retrieval_scores(audio, visual, given)
    distances = np.array(naive_hamming(audio, visual), dtype=float)
    if bits < 12:
        assert all(len(set(row)) < 40 for row in distances.tolist())  # there are ties to break
    for direction, scores in (("audio_to_visual", -distances), ("visual_to_audio", -distances.T)):
        expected = average_precision(scores, share.numpy()).mean()
        assert table[direction]["map"] == pytest.approx(expected, rel=1e-12)
        shuffled = [shuffled_precision(*row) for row in zip(scores, share.numpy(), strict=True)]
        # Of forty queries and thirty orders each, which differ by a tenth: five standard errors.
        assert table[direction]["map"] == pytest.approx(np.mean(shuffled), abs=0.02)


def shuffled_precision(scores, relevant, times=30):
    """Mean average precision over random orders of what ties, by the definition."""
    generator, found = np.random.default_rng(0), []
    for _ in range(times):
        order = np.lexsort((generator.random(len(scores)), -scores))
        hits = relevant[order]
        found.append((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())
    return np.mean(found)


# Sentences.


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: pack(torch.ones(8)), r"Codes are rows \(n, bits\).*got \(8,\)"),
        (lambda: pack(torch.ones(2, 2, 2)), r"Codes are rows \(n, bits\).*got \(2, 2, 2\)"),
        (lambda: pack(torch.tensor([[1.0, 0.0]])), "of one positive and one negative number"),
        (lambda: pack(torch.tensor([[True, False]])), "of one positive and one negative number"),
        (lambda: pack(torch.tensor([[1.0, torch.nan]])), "of one positive and one negative number"),
        (lambda: unpack(torch.ones(2, 1), 8), r"Packed codes are bytes .* got torch.float32 of shape \(2, 1\)"),
        (
            lambda: unpack(torch.ones(2, dtype=torch.uint8), 8),
            r"Packed codes are bytes .* got torch.uint8 of shape \(2,\)",
        ),
        (lambda: unpack(torch.ones(2, 2, dtype=torch.uint8), 8), "2 bytes a row hold no codes of 8 bits"),
        (lambda: unpack(torch.ones(2, 2, dtype=torch.uint8), 17), "2 bytes a row hold no codes of 17 bits"),
        (lambda: unpack(torch.ones(2, 1, dtype=torch.uint8), 0), "1 bytes a row hold no codes of 0 bits"),
        (lambda: hamming(torch.ones(2, 1), torch.ones(2, 1)), "Packed codes are bytes"),
        (lambda: hamming(pack(codes_of(2, 8)), codes_of(2, 8)), "Packed codes are bytes"),
        (lambda: hamming(pack(codes_of(2, 8)), pack(codes_of(2, 9))), "Codes of 1 bytes and of 2 cannot be compared"),
    ],
)
def test_what_are_no_codes_is_a_sentence(call, said):
    with pytest.raises(ValueError, match=said) as error:
        call()
    assert "\n" not in str(error.value)
