"""Normal equations with unknowns that fall into small groups, and their factor.

Position errors of the stage and gains of a readout board affect few detectors. If exposures read few detectors, the signals couple
such unknowns with each other only in small groups, one for each board. Eliminating a group changes only the equations of the unknowns of
the rest that it is coupled with (its columns), so that the dense part has the size of the rest: beam, scales and unknowns common to all
detectors.

A term that fixes the sums ``U' z`` of some unknowns couples all groups. It is separate: with ``H = H_0 + U U'`` and ``V_0 = H_0^-1``,
``V = V_0 - P (1 + U' P)^-1 P'``, ``P = V_0 U`` (Woodbury).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg, sparse
from scipy.sparse import csgraph

from permil._kernels.joint import mirror_upper
from permil.arrays import BoolArray, FloatArray, IntArray
from permil.flat.joint.factor import factorise_rows, inverse_of, lower_factor
from permil.flat.joint.normal import subtract_products

_LARGEST = 1000
"""Number of members of a group above which they remain with the rest."""

_ROWS = 256
"""Rows of a product computed at a time."""


@dataclass(frozen=True)
class Group:
    """Unknowns coupled with each other and only with some others, which are in the rest.

    Parameters
    ----------
    members : ndarray of int, shape (k,)
        The unknowns, rising.
    columns : ndarray of int, shape (c,)
        Places among the rest, rising.
    own : ndarray, shape (k, k)
        Matrix of the members, or its lower Cholesky factor ``L``.
    cross : ndarray, shape (k, c)
        That of members and columns, or ``L^-1`` times it.
    """

    members: IntArray
    columns: IntArray
    own: FloatArray
    cross: FloatArray

    def eliminated(self, diagonal: FloatArray) -> Group:
        """Return the factor of a group with a diagonal added to the matrix of its members."""
        factor = linalg.cholesky(self.own + np.diag(diagonal[self.members]), lower=True, check_finite=False)
        return Group(self.members, self.columns, factor, _solve(factor, self.cross))

    def without(self, chosen: BoolArray, places: IntArray) -> Group:
        """Return the members that are not chosen, with the chosen ones as part of the rest.

        Parameters
        ----------
        chosen : ndarray of bool, shape (k,)
        places : ndarray of int
            Places of the columns and then of the chosen members among the rest.
        """
        order = np.argsort(places)
        cross = np.hstack([self.cross[~chosen], self.own[np.ix_(~chosen, chosen)]])
        return Group(self.members[~chosen], places[order], self.own[np.ix_(~chosen, ~chosen)], cross[:, order])


@dataclass(frozen=True)
class PriorTerms:
    """A precision that is added to normal equations, in parts.

    Parameters
    ----------
    diagonal : ndarray, shape (n,)
    blocks : sequence
        First unknown, and matrix, of blocks outside all groups.
    held : ndarray, shape (n, m)
        ``U``, whose square is added.
    """

    diagonal: FloatArray
    blocks: Sequence[tuple[int, FloatArray]]
    held: FloatArray

    def times(self, vector: FloatArray) -> FloatArray:
        """Return the product with a vector."""
        result = self.diagonal * vector + self.held @ (self.held.T @ vector)
        for first, block in self.blocks:
            inside = slice(first, first + len(block))
            result[inside] += block @ vector[inside]
        return np.asarray(result)

    @property
    def whole_diagonal(self) -> FloatArray:
        """The diagonal of all parts, shape (n,)."""
        result = self.diagonal + np.square(self.held).sum(axis=1)
        for first, block in self.blocks:
            result[first : first + len(block)] += np.diag(block)
        return np.asarray(result)


class GroupedMatrix:
    """A symmetric matrix of unknowns, some of which form groups.

    Parameters
    ----------
    groups : sequence of Group
    rest : ndarray of int, shape (r,)
        The other unknowns, rising.
    matrix : ndarray, shape (r, r)
        Of the rest.
    """

    def __init__(self, groups: Sequence[Group], rest: IntArray, matrix: FloatArray) -> None:
        self.groups, self.rest, self.matrix = groups, rest, matrix
        self.size = len(rest) + sum(len(group.members) for group in groups)

    @classmethod
    def of(cls, matrix: FloatArray, candidates: IntArray) -> GroupedMatrix:
        """Return a matrix in groups, in the same memory.

        Parameters
        ----------
        matrix : ndarray, shape (n, n)
            Upper triangle. It is overwritten.
        candidates : ndarray of int
            Unknowns that may form groups.
        """
        inside = sparse.csr_array(matrix[np.ix_(candidates, candidates)] != 0)
        _, number = csgraph.connected_components(inside, directed=False)
        order = np.argsort(number, kind="stable")
        found = np.split(candidates[order], np.flatnonzero(np.diff(number[order])) + 1) if candidates.size else []
        found = [members for members in found if len(members) <= _LARGEST]
        rest = np.setdiff1d(np.arange(len(matrix)), np.concatenate(found) if found else candidates[:0])
        groups = []
        for members in found:
            own = matrix[np.ix_(members, members)]
            mirror_upper(own)
            # Of each pair of unknowns the upper triangle is filled.
            cross = matrix[np.ix_(members, rest)]
            split = np.searchsorted(rest, members)
            for row, member, place in zip(cross, members, split, strict=True):
                row[:place] = matrix[rest[:place], member]
            columns = np.flatnonzero(cross.any(axis=0))
            groups.append(Group(members, columns, own, np.ascontiguousarray(cross[:, columns])))
        # Rows and columns move to smaller numbers: none is overwritten before it has moved.
        first = int(np.flatnonzero(np.append(rest != np.arange(rest.size), True))[0])
        matrix[:first, first : rest.size] = matrix[:first, rest[first:]]
        for place in range(first, rest.size):
            matrix[place, place : rest.size] = matrix[rest[place], rest[place:]]
        of_rest = matrix[: rest.size, : rest.size]
        mirror_upper(of_rest)
        return cls(groups, rest, of_rest.copy() if 2 * of_rest.size < matrix.size else of_rest)

    @property
    def diagonal(self) -> FloatArray:
        """The diagonal, shape (n,)."""
        result = np.empty(self.size)
        result[self.rest] = np.diag(self.matrix)
        for group in self.groups:
            result[group.members] = np.diag(group.own)
        return result

    def times(self, vector: FloatArray) -> FloatArray:
        """Return the product with a vector."""
        result, of_rest = np.empty(self.size), vector[self.rest]
        total = linalg.blas.dsymv(1.0, self.matrix.T, of_rest, lower=1)
        for group in self.groups:
            own = vector[group.members]
            result[group.members] = group.own @ own + group.cross @ of_rest[group.columns]
            total[group.columns] += own @ group.cross
        result[self.rest] = total
        return result

    def factor(self, prior: PriorTerms) -> GroupedFactor:
        """Return the factor of the matrix with a prior.

        Raises
        ------
        numpy.linalg.LinAlgError
            If the unknowns are not determined.
        """
        matrix = self.matrix.copy()
        groups = self._eliminate(self.groups, self.rest, matrix, prior)
        factorise_rows(matrix, 0, len(matrix))
        return GroupedFactor(groups, self.rest, lower_factor(matrix), prior.held)

    def without_others(
        self, prior: PriorTerms, columns: FloatArray, last: IntArray, *, overwrite: bool = False
    ) -> tuple[FloatArray, FloatArray]:
        """Return the matrix of some unknowns, and columns, after eliminating all other unknowns within their prior.

        Parameters
        ----------
        prior
            Its part for the unknowns that stay does not count; the sums that are held are either all of these, or all of others.
        columns : ndarray, shape (n, k)
            Right-hand sides.
        last : ndarray of int, shape (m,)
            The unknowns that stay, rising.
        overwrite
            Whether the matrix may be overwritten, where its order allows that.

        Returns
        -------
        matrix : ndarray, shape (m, m)
        columns : ndarray, shape (m, k)
        """
        chosen = np.zeros(self.size, dtype=bool)
        chosen[last] = True
        order = np.concatenate([self.rest[~chosen[self.rest]], last])
        first = len(order) - len(last)
        place_of = np.full(self.size, -1)
        place_of[order] = np.arange(len(order))
        groups = [
            group.without(
                chosen[group.members], place_of[np.concatenate([self.rest[group.columns], group.members[chosen[group.members]]])]
            )
            for group in self.groups
        ]
        in_place = overwrite and np.array_equal(order, self.rest)
        matrix = self.matrix if in_place else self._in_order(order, place_of, chosen)
        groups = self._eliminate([group for group in groups if group.members.size], order, matrix, prior, stays=last)
        factorise_rows(matrix, 0, first)
        held = np.where(chosen[:, None], 0.0, prior.held)
        right = np.hstack([columns, held])
        left, whitened = _whiten_groups(groups, order, right)
        of_rest = _solve(matrix[:first, :first].T, left[:first])
        left = left[first:] - matrix[:first, first:].T @ of_rest
        products = whitened.T @ whitened + of_rest.T @ of_rest
        result = matrix[first:, first:].copy()
        mirror_upper(result)
        count = columns.shape[1]
        coupled = -left[:, count:] @ np.linalg.inv(np.eye(held.shape[1]) + products[count:, count:])
        # ``N_bo V_0 U`` is minus what is left of U.
        for start in range(0, len(last), _ROWS):
            rows = slice(start, start + _ROWS)
            result[rows] -= coupled[rows] @ left[:, count:].T
        return result, left[:, :count] + coupled @ products[count:, :count]

    def _in_order(self, order: IntArray, place_of: IntArray, chosen: BoolArray) -> FloatArray:
        """Return the matrix of some unknowns in an order, upper triangle; those of groups come last."""
        matrix = np.zeros((len(order), len(order)))
        places = place_of[self.rest]
        if np.array_equal(places, np.arange(places.size)):
            matrix[: places.size, : places.size] = self.matrix
        else:
            matrix[np.ix_(places, places)] = self.matrix
        for group in self.groups:
            own = chosen[group.members]
            if own.any():
                here = place_of[group.members[own]]
                matrix[np.ix_(place_of[self.rest[group.columns]], here)] = group.cross[own].T
                matrix[np.ix_(here, here)] = group.own[np.ix_(own, own)]
        return matrix

    def _eliminate(
        self, groups: Sequence[Group], order: IntArray, matrix: FloatArray, prior: PriorTerms, stays: IntArray | None = None
    ) -> list[Group]:
        """Add the prior, and eliminate the groups from the matrix of the rest; return their factors."""
        place_of = np.full(self.size, -1)
        place_of[order] = np.arange(len(order))
        diagonal = prior.diagonal.copy()
        if stays is not None:
            diagonal[stays] = 0.0
        matrix[np.diag_indices_from(matrix)] += diagonal[order]
        for first, block in prior.blocks:
            if stays is not None and first in stays:
                continue
            place = place_of[first]
            matrix[place : place + len(block), place : place + len(block)] += block
        eliminated = [group.eliminated(diagonal) for group in groups]
        if eliminated:
            subtract_products(matrix, [(group.columns, group.cross) for group in eliminated])
        return eliminated


class GroupedFactor:
    """Factor of a symmetric positive definite matrix ``H``: a square root ``W`` of its inverse, ``W' W = H^-1``.

    Parameters
    ----------
    groups : sequence of Group
        Eliminated.
    rest : ndarray of int, shape (r,)
        The other unknowns, rising.
    lower : ndarray, shape (r, r)
        Lower Cholesky factor of the matrix after eliminating the groups.
    held : ndarray, shape (n, m)
        ``U``, whose square is part of the matrix but not of the groups and ``lower``.
    """

    def __init__(self, groups: Sequence[Group], rest: IntArray, lower: FloatArray, held: FloatArray) -> None:
        self.groups, self.rest, self.lower, self.held = groups, rest, lower, held
        self.size = len(held)

    @classmethod
    def of(cls, matrix: FloatArray) -> GroupedFactor:
        """Return the factor of a matrix (both triangles) without groups."""
        size = len(matrix)
        return cls([], np.arange(size), np.asarray(linalg.cholesky(matrix, lower=True)), np.zeros((size, 0)))

    def whiten(self, columns: FloatArray) -> FloatArray:
        """Return ``W`` times some columns, or a vector."""
        result = self._whiten(columns)
        along, damping = self._along_held
        return np.asarray(result - along @ (damping @ (along.T @ result)))

    def unwhiten(self, columns: FloatArray) -> FloatArray:
        """Return ``W'`` times some columns, or a vector."""
        along, damping = self._along_held
        return self._unwhiten(columns - along @ (damping @ (along.T @ columns)))

    def solve(self, columns: FloatArray) -> FloatArray:
        """Return ``H^-1`` times some columns, or a vector."""
        return self.unwhiten(self.whiten(columns))

    def products(self, columns: FloatArray) -> FloatArray:
        """Return ``C' H^-1 C`` of many columns ``C``, shape (n, m), each with entries for few groups."""
        left, result = columns[self.rest], np.zeros((columns.shape[1], columns.shape[1]))
        along, _ = self._along_held
        of_held = np.zeros((along.shape[1], columns.shape[1]))
        for group in self.groups:
            of_members = columns[group.members]
            used = np.flatnonzero(of_members.any(axis=0))
            if used.size:
                own = _solve(group.own, of_members[:, used])
                left[np.ix_(group.columns, used)] -= group.cross.T @ own
                result[np.ix_(used, used)] += own.T @ own
                of_held[:, used] += along[group.members].T @ own
        left = _solve(self.lower, left)
        of_held += along[self.rest].T @ left
        # The upper triangle of an array is the lower one of its transpose.
        square = linalg.blas.dsyrk(1.0, left, trans=1, lower=1).T
        mirror_upper(square)
        _, inner = self._of_held
        return np.asarray(result + square - of_held.T @ inner @ of_held)

    def covariance(self, unknowns: IntArray) -> FloatArray:
        """Return the rows and columns of ``H^-1`` of some unknowns, rising, shape (m, m)."""
        place_of = np.full(self.size, -1)
        place_of[unknowns] = np.arange(len(unknowns))
        in_rest = np.flatnonzero(place_of[self.rest] >= 0)
        here, result = place_of[self.rest[in_rest]], np.zeros((len(unknowns), len(unknowns)))
        result[np.ix_(here, here)] = self._inverse[np.ix_(in_rest, in_rest)]
        touched = [(group, np.flatnonzero(place_of[group.members] >= 0)) for group in self.groups]
        touched = [(group, own) for group, own in touched if own.size]
        if touched:
            columns = np.unique(np.concatenate([group.columns for group, _ in touched]))
            there = np.concatenate([place_of[group.members[own]] for group, own in touched])
            # Members follow the columns of their group, and have a part of their own.
            follow, first = np.zeros((there.size, columns.size)), 0
            for group, own in touched:
                unit = np.zeros((len(group.members), own.size))
                unit[own, np.arange(own.size)] = 1.0
                rows, places = _solve(group.own, unit), there[first : first + own.size]
                result[np.ix_(places, places)] = rows.T @ rows
                follow[first : first + own.size, np.searchsorted(columns, group.columns)] = -rows.T @ group.cross
                first += own.size
            result[np.ix_(there, there)] += follow @ self._inverse[np.ix_(columns, columns)] @ follow.T
            with_rest = follow @ self._inverse[np.ix_(columns, in_rest)]
            result[np.ix_(there, here)] = with_rest
            result[np.ix_(here, there)] = with_rest.T
        with_held, inner = self._of_held
        return np.asarray(result - with_held[unknowns] @ inner @ with_held[unknowns].T)

    def plus(self, first: int, change: FloatArray) -> GroupedFactor:
        """Return the factor of the matrix with a change of a block of the rest added, which begins at one of the unknowns."""
        lower, place = self.lower.copy(order="K"), int(np.searchsorted(self.rest, first))
        behind = lower[place:, place:]
        matrix = behind @ behind.T
        matrix[: len(change), : len(change)] += change
        behind[:] = linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
        return GroupedFactor(self.groups, self.rest, lower, self.held)

    @cached_property
    def _inverse(self) -> FloatArray:
        """Covariance of the rest without the held unknowns."""
        return inverse_of(self.lower)

    @cached_property
    def _along_held(self) -> tuple[FloatArray, FloatArray]:
        """``Z = W_0 U`` and the matrix ``K`` with ``W = (1 - Z K Z') W_0``."""
        along = self._whiten(self.held)
        strength, directions = np.linalg.eigh(along.T @ along)
        # (1 - (1 + s)^-1/2) / s without cancellation.
        root = np.sqrt(1.0 + np.maximum(strength, 0.0))
        return along, (directions / (root * (1.0 + root))) @ directions.T

    @cached_property
    def _of_held(self) -> tuple[FloatArray, FloatArray]:
        """``P`` and ``(1 + U' P)^-1``."""
        along, _ = self._along_held
        return self._unwhiten(along), np.asarray(linalg.inv(np.eye(along.shape[1]) + along.T @ along))

    def _whiten(self, columns: FloatArray) -> FloatArray:
        right = columns.reshape(self.size, -1)
        left, result = _whiten_groups(self.groups, self.rest, right)
        result[self.rest] = _solve(self.lower, left)
        return result.reshape(columns.shape)

    def _unwhiten(self, columns: FloatArray) -> FloatArray:
        whitened = columns.reshape(self.size, -1)
        result = np.empty(whitened.shape)
        of_rest = _solve(self.lower, whitened[self.rest], transposed=True)
        result[self.rest] = of_rest
        for group in self.groups:
            own = whitened[group.members] - group.cross @ of_rest[group.columns]
            result[group.members] = _solve(group.own, own, transposed=True)
        return result.reshape(columns.shape)


def _whiten_groups(groups: Sequence[Group], rest: IntArray, columns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return columns on the rest after eliminating groups, and ``L^-1`` times those of the members, 0 on all others."""
    left, result = columns[rest], np.zeros(columns.shape)
    for group in groups:
        own = _solve(group.own, columns[group.members])
        result[group.members] = own
        left[group.columns] -= group.cross.T @ own
    return left, result


def _solve(lower: FloatArray, right: FloatArray, *, transposed: bool = False) -> FloatArray:
    return np.asarray(linalg.solve_triangular(lower, right, lower=True, trans="T" if transposed else "N", check_finite=False))
